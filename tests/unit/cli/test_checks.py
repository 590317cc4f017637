"""Which sets, weights, batches and changes are told before torch is imported, and which are left to the stage."""

import json
from pathlib import Path

import pytest

from dense.config import DenseConfig
from finetune.config import FinetuneConfig
from hornet.cli.checks import EVALUATION, TRAINING
from hornet.config import ConfigError, build_config, load_config, read_settings
from hornet.runs.begun import write_config
from hornet.shards.manifest import read_manifest
from hornet.stages.config import EvaluateConfig
from pretrain.config import PretrainConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs/demo"
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def launch(monkeypatch):
    """Return a function that makes this process one of several ranks."""

    def make(num_ranks, num_local_ranks):
        world = {"RANK": 0, "WORLD_SIZE": num_ranks, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": num_local_ranks}
        for name, value in {**world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}.items():
            monkeypatch.setenv(name, str(value))

    return make


@pytest.fixture
def find(toy_set):
    """Return a function that reads a demo's config with other sets, and returns what is wrong, a line each."""

    def run(*overrides, config_class=PretrainConfig, name="pretrain"):
        sets = [f"data.shards={toy_set}", f"evaluation.shards={toy_set}", "evaluation.split=train"]
        words = [*sets, "run.name=x", "global_batch_size=8", "micro_batch_size=4", *overrides]
        try:
            load_config(config_class, path=CONFIGS / f"{name}.yaml", overrides=words, checks=TRAINING)
        except ConfigError as error:
            return error.problems
        return []

    return run


def test_a_start_that_lacks_nothing_is_let_through(find, tmp_path, launch):
    (tmp_path / "x.pth").touch()
    assert find() == []
    assert find("start.from=x.pth", config_class=FinetuneConfig, name="finetune") == []
    launch(2, 2)
    assert find("micro_batch_size=auto") == []


def test_all_that_is_wrong_with_a_start_is_one_report(find, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    wrong = ["data.shards=absent", "evaluation.split=trian", "start.from=none.pth", "schedule.peak_lr=-1", "seed=3"]
    found = find(*wrong, "model.module=notthere", config_class=FinetuneConfig, name="finetune")
    assert [problem.partition(":")[0] for problem in found] == [
        "seed",
        "schedule.peak_lr",
        "environment",
        "data.shards",
        "start.from",
        "model.module",
        "evaluation.split",
    ]
    assert "RANK is set to 1, but WORLD_SIZE is not" in found[2]
    assert found[3].startswith("data.shards: absent/_info.json is missing: absent is not a folder of shards; make them")
    assert found[6].endswith("_info.json: there is no split 'trian'; the set has: train")
    assert found[4].endswith("none.pth does not exist; give a run directory, a checkpoint in one or a weight file")
    assert "there is no module 'notthere' in " in found[5]


def test_what_could_not_be_read_keeps_nothing_else_from_being_looked_for(find):
    found = find("global_batch_size=016", "data.shuffle_window_shards=0", "evaluation.shards=absent", "run.name=null")
    assert [problem.partition(":")[0] for problem in found] == [
        "run.name",
        "data.shuffle_window_shards",
        "global_batch_size",
        "evaluation.shards",
    ]
    values, _ = read_settings(CONFIGS / "pretrain.yaml", ["evaluation.shards=absent"])
    del values["data"], values["run"]
    with pytest.raises(
        ConfigError, match=r"3 problems\nrun: is missing; .*\ndata: is missing; .*\nevaluation\.shards: absent/"
    ):
        build_config(PretrainConfig, values, source="x", checks=TRAINING)


def test_batches_are_divided_over_the_ranks_of_the_launch(find, launch):
    (problem,) = find("global_batch_size=10", "micro_batch_size=4")
    assert problem.startswith("global_batch_size 10 over 1 ranks leaves 10 images a rank, which is not a multiple of")
    launch(3, 3)
    (problem,) = find("micro_batch_size=auto")
    assert problem.startswith("global_batch_size 8 cannot be divided over 3 ranks; world sizes that divide it: 1, 2,")
    launch(3, 1)
    assert find("micro_batch_size=auto") == [problem], "what the command alone says, ranks of several nodes know too"


def test_a_batch_without_an_image_is_told_once(find):
    found = find("global_batch_size=0", "micro_batch_size=-4")
    assert found == ["global_batch_size: must be at least 1, not 0", "micro_batch_size: must be at least 1, not -4"]


def test_a_set_of_fewer_samples_than_a_batch_is_told(find, toy_set):
    num_samples = read_manifest(toy_set).split("train").num_samples
    (problem,) = find(f"global_batch_size={4 * num_samples}")
    assert problem.startswith(f"global_batch_size {4 * num_samples} is more than the split's {num_samples} samples")
    assert find(f"global_batch_size={4 * num_samples}", "data.partial_batch=carry") == []


def test_a_dense_run_is_looked_at_as_well(find):
    found = find("data.shards=absent", "global_batch_size=9", config_class=DenseConfig, name="segmentation")
    assert [problem[:21] for problem in found] == ["data.shards: absent/_", "global_batch_size 9 o"]


@pytest.mark.parametrize("place", ["https://example.org/x", "s3://bucket/x", "absent/x-{000..009}.tar", "absent/*.tar"])
def test_what_is_no_folder_here_is_looked_at_later(find, place):
    assert find(f"data.shards={place}") == []


def test_weights_that_are_there_are_looked_at_later(find, tmp_path):
    (tmp_path / "x.pth").touch()
    (tmp_path / "link.pth").symlink_to("gone.pth")
    for start in ("x.pth", "link.pth", "x.pth/inside"):
        assert find(f"start.from={start}", config_class=FinetuneConfig, name="finetune") == []


def test_a_run_that_goes_on_needs_its_sets_and_a_finished_one_nothing(find, tmp_path):
    (tmp_path / "runs/x").mkdir(parents=True)
    wrong = ["data.shards=absent", "start.from=none.pth"]
    (problem,) = find(*wrong, config_class=FinetuneConfig, name="finetune")
    assert problem.startswith("data.shards: ")
    words = ["data.shards=absent", "evaluation.shards=absent", "run.name=x", "global_batch_size=8"]
    asked = load_config(PretrainConfig, path=CONFIGS / "pretrain.yaml", overrides=[*words, "micro_batch_size=3"])
    write_config(tmp_path / "runs/x", asked)
    (tmp_path / "runs/x/summary.json").write_text("{}")
    load_config(PretrainConfig, path=CONFIGS / "pretrain.yaml", overrides=words, checks=TRAINING)


def test_a_finished_run_is_not_asked_to_be_another(find, tmp_path, toy_set):
    words = [f"data.shards={toy_set}", f"evaluation.shards={toy_set}", "evaluation.split=train", "run.name=x"]
    words += ["global_batch_size=8", "micro_batch_size=4"]
    begun = load_config(PretrainConfig, path=CONFIGS / "pretrain.yaml", overrides=words)
    (tmp_path / "runs/x").mkdir(parents=True)
    write_config(tmp_path / "runs/x", begun)
    (tmp_path / "runs/x/summary.json").write_text(json.dumps({"steps": 1}))
    assert find() == []
    assert find("data.num_workers=1") == [], "changes nothing that was learned"
    changed, broken = find("schedule.peak_lr=0.1", "guard.window_steps=0")[::-1]
    assert broken.startswith("guard.window_steps: must be at least 2")
    assert f"{tmp_path / 'runs/x'}: this run was started with another config:\n" in changed
    assert "  schedule.peak_lr: 0.002 -> 0.1\n" in changed
    (tmp_path / "runs/x/summary.json").write_text("{")
    (problem,) = find()
    assert "summary.json: is not JSON" in problem


def test_ranks_of_several_nodes_tell_each_other_of_files_later(find, launch):
    wrong = ["data.shards=absent", "start.from=none.pth", "model.module=notthere", "micro_batch_size=1"]
    launch(4, 2)
    assert find(*wrong, config_class=FinetuneConfig, name="finetune") == []
    launch(2, 2)
    assert len(find(*wrong, config_class=FinetuneConfig, name="finetune")) == 3


def test_a_module_in_the_working_folder_is_found_and_not_imported(find, tmp_path):
    (tmp_path / "networks_of_mine.py").write_text("raise SystemExit('imported')")
    assert find("model.module=networks_of_mine") == []


def find_in_evaluation(toy_set, **values):
    values = {"source": "x", "evaluation": {"shards": toy_set, "split": "train", "image_size": 64}, **values}
    try:
        build_config(EvaluateConfig, values, source="x", checks=EVALUATION)
    except ConfigError as error:
        return error.problems
    return []


def test_an_evaluation_asks_for_its_set_its_splits_and_its_module(toy_set, tmp_path):
    assert find_in_evaluation(toy_set) == []
    found = find_in_evaluation(toy_set, probe={"split": "validation"}, module="notthere")
    assert [problem.partition(":")[0] for problem in found] == ["probe.split", "model.module"]
    (tmp_path / "imagenet-c/fog/1").mkdir(parents=True)
    folder = {"shards": "imagenet-c", "image_size": 64}
    assert find_in_evaluation(toy_set, evaluation=folder, corruptions=True) == [], "a folder of sets"
    (problem,) = find_in_evaluation(toy_set, evaluation=folder)
    assert problem.startswith("evaluation.shards: imagenet-c/_info.json is missing")
    (problem,) = find_in_evaluation(toy_set, evaluation={**folder, "shards": "absent"}, corruptions=True)
    assert problem.startswith("evaluation.shards: absent/_info.json is missing")
