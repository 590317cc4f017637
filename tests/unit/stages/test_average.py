"""Weights made of several: their arithmetic by hand, a soup whose answer is known, what is written and what refused."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import average as command
from finetune.config import FinetuneConfig
from finetune.soup import average, choose_greedily, mix, require_one_network, round_to
from finetune.start import fit_weights
from hornet.cli.average import read_config
from hornet.cli.evaluate import read_config as read_evaluation
from hornet.config import ConfigError, load_config, to_yaml
from hornet.data.loader import open_evaluation_stream
from hornet.errors import UserError
from hornet.model.build import build_model
from hornet.shards.label_space import LabelSpace
from hornet.stages.classification import describe_weights
from hornet.stages.pretrained import Pretrained, read_pretrained
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import RetentionConfig
from hornet.world import ALONE

ROOT = Path(__file__).resolve().parents[3]
SMALL = "model.arguments={width: 8, depths: [1, 1, 1, 1]}"


def draw(seed):
    random = np.random.default_rng(seed)
    return {"a": random.standard_normal((3, 2)).astype(np.float32), "b": random.standard_normal(4).astype(np.float32)}


def to_torch(state):
    return {name: torch.from_numpy(values) for name, values in state.items()}


def test_the_average_is_that_of_numpy():
    states = [draw(seed) for seed in range(5)]
    found = round_to(average(to_torch(state) for state in states), to_torch(states[0]))
    for name in ("a", "b"):
        expected = np.mean([state[name].astype(np.float64) for state in states], axis=0)
        assert found[name].dtype is torch.float32
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-7)


def test_a_mixture_ends_at_both_to_the_bit_and_lies_between_by_its_share():
    first, second = draw(0), draw(1)
    for share in (0.0, 0.25, 1.0):
        found = round_to(mix(to_torch(first), to_torch(second), share=share), to_torch(first))
        expected = {name: ((1 - share) * first[name].astype(np.float64) + share * second[name]) for name in first}
        assert all(np.array_equal(found[name].numpy(), expected[name].astype(np.float32)) for name in first)


def test_whole_numbers_are_not_averaged():
    states = [{"count": torch.tensor(number)} for number in (3, 8)]
    assert average(states)["count"] == 8


def test_a_soup_whose_answer_is_known():
    """Of the mean of these numbers 100 minus its size counts: -4 makes 4 better, 10 would spoil it."""
    values, tried = [10, 4, -4], []

    def score(numbers):
        tried.append(list(numbers))
        return round(100 - abs(sum(values[number] for number in numbers) / len(numbers)))

    assert choose_greedily([100 - abs(value) for value in values], score) == [1, 2]
    assert tried == [[1, 2], [1, 2, 0]], "from the best to the worst; the spoiling one is tried and left"


def test_a_soup_of_equals_keeps_what_does_as_well():
    assert choose_greedily([7, 7, 7], lambda _numbers: 7) == [0, 1, 2]
    assert choose_greedily([5, 9, 7], lambda _numbers: 8) == [1]


def start(**changes):
    state = {"head.weight": torch.zeros(2, 3), "x": torch.ones(4)}
    description = {"model": "hornet_atto_gf", "mean": [0.5] * 3, "std": [0.5] * 3}
    space = LabelSpace(name="pets", classes=("cat", "dog"))
    kept = {"state_dict": state, "label_space": space, "description": description, "source": "one"}
    return Pretrained(**{**kept, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"description": {"model": "convnext_atto", "mean": [0.5] * 3, "std": [0.5] * 3}},
            "two: has model='convnext_atto', one model='hornet_atto_gf'; only weights of one network and one label",
        ),
        (
            {"label_space": LabelSpace(name="others", classes=("cat", "newt"))},
            r"two: its head is of 'others' \(2 classes.*, that of one of 'pets' \(2 classes",
        ),
        ({"label_space": None}, "two: does not say what it is; give runs, or checkpoints in them"),
        (
            {"state_dict": {"head.weight": torch.zeros(2, 3), "x": torch.ones(5)}},
            r"two: 1 tensors are not as in one \(x: \(5,\) and \(4,\)\); .*, at one image size",
        ),
        ({"state_dict": {"head.weight": torch.zeros(2, 3)}}, r"two: 1 tensors are not as in one \(x: None and \(4,\)"),
        (
            {"state_dict": {"head.weight": torch.zeros(2, 3), "x": torch.full((4,), torch.nan)}},
            r"two: holds NaN or infinity in 1 tensors \(x\); leave it out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_both_named(changes, message):
    require_one_network(start(), start(source="two"))
    with pytest.raises(UserError, match=message):
        require_one_network(start(), start(source="two", **changes))


class Saved:
    """In an engine's place: writes weights as Accelerate's does."""

    def __init__(self, state):
        self.state = state

    def save(self, folder, writer):
        empty = {"state": {}, "param_groups": []}
        writer.take(folder / "state.pt", {"model": self.state, "optimizer": empty})


def write_run(folder, toy_set, *, seeds, overrides=()):
    """Write a run of a checkpoint for each seed, which alone its weights come from; return its config and weights."""
    sets = [f"data.shards={toy_set}", f"evaluation.shards={toy_set}", "evaluation.split=train"]
    sizes = ["data.transform.image_size=32", "evaluation.image_size=32", "evaluation.batch_size=16", SMALL]
    config = load_config(
        FinetuneConfig, path=ROOT / "configs/demo/finetune.yaml", overrides=[*sets, *sizes, *overrides]
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    space = open_evaluation_stream(config.evaluation, world=ALONE).label_space
    states = [
        build_model(config.model, num_classes=len(space), image_size=32, seed=seed).state_dict() for seed in seeds
    ]
    for number, state in enumerate(states):
        checkpointer = Checkpointer(
            folder / "checkpoints",
            engine=Saved(state),
            identity={"engine": "accelerate"},
            description=describe_weights(model=config.model, image_size=32, mixing=config.mixing, label_space=space),
            world=ALONE,
            retention=RetentionConfig(newest=9, asynchronous=False),
            find_best=lambda _steps: None,
            require_sole=lambda: None,
        )
        checkpointer.save(RunState(step=10 * (number + 1)))
        checkpointer.close()
    return config, states


@pytest.fixture
def make(alone, monkeypatch):
    """Give a command as it is typed, within this process's group."""
    monkeypatch.setattr(command, "open_process_group", lambda *_arguments, **_names: nullcontext())
    return lambda method, *words: command.average_weights(read_config(method, list(map(str, words))), world=alone)


def read(folder):
    return read_pretrained(folder, weights="raw", label_space=None)


def require_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name].to(found[name].dtype), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_checkpoints_of_a_run_become_a_run_that_is_read_as_one(make, alone, toy_set, tmp_path):
    run = tmp_path / "run"
    _, states = write_run(run, toy_set, seeds=(1, 2, 3))
    averaged = make("newest", run, "count=2")
    assert averaged.folder == run / "averages/newest"
    assert [row.name for row in averaged.rows] == ["step_00000020", "step_00000030", "mean of 2"]
    assert all(row.num_images == 48 for row in averaged.rows)
    found = read(averaged.folder)
    require_equal(found.state_dict, {name: (states[1][name].double() + states[2][name]) / 2 for name in states[0]})
    assert found.description == read(run).description
    assert read_evaluation(averaged.folder, config=None, overrides=[]).evaluation.split == "train"
    with pytest.raises(UserError, match="holds no averaged weights"):
        read_pretrained(averaged.folder, weights="ema", label_space=None)
    with pytest.raises(
        UserError, match="averages/newest: is there already; remove it to make it anew, or give output="
    ):
        make("newest", run, "count=2")
    with pytest.raises(UserError, match="holds 3 checkpoints, and count=4 asks for more"):
        make("newest", run, "count=4", f"output={tmp_path / 'more'}")

    best = make("best", run, "count=1", f"output={tmp_path / 'best'}")
    hits = [row.num_hits for row in best.rows[:3]]
    winner = max(range(3), key=lambda number: (hits[number], number))
    require_equal(read(best.folder).state_dict, states[winner])
    assert best.rows[3].num_hits == hits[winner]
    written = json.loads((tmp_path / "best/average.json").read_text())
    assert (written["chosen"], written["method"], written["split"]) == ("mean of 1", "best", "train")
    assert [row["num_hits"] for row in written["rows"]] == [*hits, hits[winner]]
    table = (tmp_path / "best/average.md").read_text()
    assert f"| mean of 1 | {100 * hits[winner] / 48:.3f} | {hits[winner]} of 48 |" in table


@pytest.mark.slow
def test_a_soup_and_the_way_from_start_to_end(make, alone, toy_set, tmp_path):
    _, (first,) = write_run(tmp_path / "a", toy_set, seeds=(1,))
    config, (second,) = write_run(tmp_path / "b", toy_set, seeds=(2,), overrides=[f"start.from={tmp_path / 'a'}"])
    soup = make("soup", tmp_path / "a", tmp_path / "b")
    own, tried, whole = soup.rows[:2], soup.rows[2], soup.rows[3]
    mean = {name: (first[name].double() + second[name]) / 2 for name in first}
    best = max(own, key=lambda row: row.num_hits)
    if tried.num_hits >= best.num_hits:
        require_equal(read(soup.folder).state_dict, mean)
        assert whole.name == "soup of 2"
    else:
        require_equal(read(soup.folder).state_dict, first if best is own[0] else second)
        assert whole.name == "soup of 1"

    between = make("interpolate", tmp_path / "b", "alphas=[0,0.25,1]", f"output={tmp_path / 'w'}")
    by_alpha = {row.name: row.num_hits for row in between.rows}
    assert list(by_alpha) == ["alpha 0", "alpha 0.25", "alpha 1"]
    assert (by_alpha["alpha 0"], by_alpha["alpha 1"]) == (own[0].num_hits, own[1].num_hits)
    assert by_alpha[between.chosen] == max(by_alpha.values())
    share = float(between.chosen.split()[1])
    network = build_model(config.model, num_classes=len(first["head.bias"]), image_size=32, seed=0)
    fit_weights(read(tmp_path / "a"), network, label_space=read(tmp_path / "a").label_space)
    begun = network.state_dict()
    expected = {name: (1 - share) * begun[name].double() + share * second[name] for name in begun}
    require_equal(read(between.folder).state_dict, expected)


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("newest", ["absent"], "absent: 1 problem\ndoes not exist; give a run directory, or a checkpoint in one"),
        ("newest", ["."], r"nor metrics\.jsonl; did you mean other or run\?"),
        ("newest", ["run", "count=0"], "count: must be at least 1, not 0"),
        ("best", ["run", "other"], "sources: best takes one run, not 2"),
        ("soup", ["run"], "sources: a soup needs at least two runs or checkpoints"),
        ("soup", ["run", "run"], "sources: name one twice"),
        ("interpolate", ["run", "alphas=[0,2]"], r"alphas: must be numbers from 0 to 1, at least one, not \[0"),
        ("interpolate", ["run", "alpha=[0]"], "alpha: unknown key; did you mean alphas?"),
    ],
)
def test_a_wrong_command_is_refused_in_a_sentence(method, words, message, tmp_path, monkeypatch):
    config = load_config(FinetuneConfig, path=ROOT / "configs/demo/finetune.yaml", overrides=[])
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(to_yaml(config))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_config(method, words)


def test_a_pretraining_has_no_start(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {name: x}\n")
    settings = read_config_of(tmp_path)
    with pytest.raises(UserError, match=r"has no start\.from; only a finetuning run has a start to go back to"):
        command._read_start(settings, start())


def read_config_of(folder):
    (folder / "whole").mkdir()
    config = load_config(FinetuneConfig, path=ROOT / "configs/demo/finetune.yaml", overrides=[])
    (folder / "whole/config.yaml").write_text(to_yaml(config))
    return dataclasses.replace(read_config("interpolate", [str(folder / "whole")]), sources=(folder,))
