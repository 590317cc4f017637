"""Runs of several lengths that share a trunk: in the plan, its costs and order, the pool, SLURM's arrays and states."""

import json
from dataclasses import replace

import pytest

from hornet.config import ConfigError
from hornet.training.schedule import plan_schedule
from scaling.config import read_study
from scaling.costs import Speed, count_seconds, read_speed
from scaling.expansion import expand
from scaling.order import keep_within, name_runs, sort_runs
from scaling.state import look
from scaling.trunk import MOST_KEPT
from tests.unit.scaling.studies import GRID, ROOT, TUNED, make_study

# 48 images in batches of 4: 12 steps an epoch, so lengths of 24, 48 and 96 steps, cooldowns of 5, 10 and 19.
LENGTHS = GRID | {
    "families": ["gf"],
    "sizes": ["atto"],
    "fractions": [1.0],
    "seeds": [0],
    "epochs": [2, 4, 8],
    "trunk": True,
    "overrides": [*GRID["overrides"], "schedule.shape=wsd", "cadence.save_every_steps=10"],
}
TRUNK, LONG, SHORT = (f"lengths/gf-atto_f1_e{epochs}_s0" for epochs in (8, 4, 2))


def expand_lengths(tmp_path, **changes):
    study = make_study(tmp_path, groups={"lengths": LENGTHS | changes})
    return study, {cell.name: cell for cell in expand(study)}


def problems_of(tmp_path, **changes):
    with pytest.raises(ConfigError) as caught:
        expand_lengths(tmp_path, **changes)
    return caught.value.problems


def test_the_longest_is_the_trunk_and_keeps_what_the_others_begin_with(tmp_path):
    study, cells = expand_lengths(tmp_path)
    assert {name: (cell.trunk, cell.branch_step, cell.num_own_steps) for name, cell in cells.items()} == {
        SHORT: (TRUNK, 19, 5),
        LONG: (TRUNK, 38, 10),
        TRUNK: (None, 0, 96),
    }
    assert cells[TRUNK].config.run.branch_from is None
    assert cells[SHORT].config.run.branch_from == str(study.folder / TRUNK)
    assert (cells[TRUNK].config.checkpoints.every_steps, cells[TRUNK].config.cadence.save_every_steps) == (19, 19)
    assert cells[LONG].config.checkpoints.every_steps is None


def test_a_branch_is_asked_for_by_the_digest_of_its_length(tmp_path):
    _, branches = expand_lengths(tmp_path)
    _, alone = expand_lengths(tmp_path, trunk=False)
    assert {name: cell.digest for name, cell in branches.items()} == {name: cell.digest for name, cell in alone.items()}


def test_lengths_without_a_common_step_keep_some_checkpoints_near_it(tmp_path):
    _, cells = expand_lengths(tmp_path, epochs=[2, 3, 8])  # 19 and 29 steps before their cooldowns
    trunk, short, long = cells[TRUNK], cells[SHORT], cells["lengths/gf-atto_f1_e3_s0"]
    assert trunk.config.checkpoints.every_steps == 96 / MOST_KEPT == 6
    assert (short.branch_step, long.branch_step) == (18, 24)


def test_the_warm_up_is_a_share_of_the_shortest_and_the_same_for_all(tmp_path):
    changes = {"epochs": None, "images_seen": [90, 250], "warmup_share": 0.1}
    _, cells = expand_lengths(tmp_path, **changes)
    assert {cell.config.schedule.warmup_epochs for cell in cells.values()} == {0.1 * 22 / 12}
    assert [cell.num_steps for cell in cells.values()] == [22, 62]


def test_bad_trunks_are_refused_in_sentences(tmp_path):
    overrides = [text for text in LENGTHS["overrides"] if text != "schedule.shape=wsd"]
    assert problems_of(tmp_path, overrides=overrides) == [
        "groups.lengths.trunk: needs schedule.shape=wsd, in the base or in overrides"
    ]
    few = "groups.lengths.trunk: is shared by runs of several lengths; list at least two in epochs or images_seen"
    assert problems_of(tmp_path, epochs=[2]) == [few]
    assert problems_of(tmp_path, epochs=None) == [few]
    groups = {"grid": GRID, "tuned": TUNED | {"trunk": True, "epochs": [1, 2]}}
    with pytest.raises(ConfigError, match=r"groups\.tuned\.trunk: is for pretrainings; leave it out of finetunings"):
        expand(make_study(tmp_path, groups=groups))


def test_the_trunk_is_paid_for_once(tmp_path):
    _, cells = expand_lengths(tmp_path)
    speed = Speed(seconds_per_image=0.5, seconds_per_evaluated_image=0, save_seconds=0, fixed_seconds=3)
    seconds = {name: count_seconds(replace(cell, evaluation=None), speed) for name, cell in cells.items()}
    assert seconds == {SHORT: 3 + 5 * 4 * 0.5, LONG: 3 + 10 * 4 * 0.5, TRUNK: 3 + 96 * 4 * 0.5}
    summary = {"images_per_second": 2, "images_seen": 96, "steps": 24}
    branch = {"trunk": "runs/t", "step": 19}
    cell = cells[SHORT]
    found = read_speed(tmp_path, summary | {"branched_from": branch}, cell=cell, seconds=13)
    assert found.fixed_seconds == pytest.approx(13 - 5 * 4 / 2)
    whole = read_speed(tmp_path, summary | {"branched_from": None}, cell=cell, seconds=13)
    assert whole.fixed_seconds == 0, "13 s are less than 96 images took"


def test_the_trunk_comes_first_and_a_budget_that_leaves_it_out_leaves_its_branches_out(tmp_path):
    _, cells = expand_lengths(tmp_path, seeds=[0, 1])
    seconds = {name: float(cell.num_own_steps) for name, cell in cells.items()}
    names = [cell.name for cell in sort_runs(list(cells.values()), seconds=seconds)]
    assert names == [TRUNK, SHORT, LONG, *(name.replace("_s0", "_s1") for name in (TRUNK, SHORT, LONG))]
    pair, runs = [cells[SHORT], cells[TRUNK]], name_runs(cells.values())
    kept = keep_within(pair, seconds=seconds, budget=50, slots=1, runs=runs)
    assert kept == [], "a branch has no beginning without its trunk"


def test_a_run_that_two_groups_ask_for_is_made_as_the_trunk(tmp_path):
    alone = LENGTHS | {"trunk": False, "epochs": [4, 8]}
    study = make_study(tmp_path, groups={"alone": alone, "lengths": LENGTHS})
    runs = {cell.name: cell.run for cell in expand(study)}
    assert runs["alone/gf-atto_f1_e8_s0"] == TRUNK
    assert runs["alone/gf-atto_f1_e4_s0"] == LONG


def test_a_branch_without_its_trunk_is_named(tmp_path):
    study, cells = expand_lengths(tmp_path)
    study.folder.mkdir(parents=True)
    (study.folder / "status.json").write_text(json.dumps({"failed": {TRUNK: "exit code 1: no more memory"}}))
    standings = look(study, list(cells.values()))
    assert (standings[TRUNK].state, standings[SHORT].state) == ("failed", "missing")
    assert standings[SHORT].reason == f"its trunk {TRUNK} failed"


def test_the_shipped_study_of_lengths_is_what_its_header_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read_study(ROOT / "configs/scaling/lengths.yaml", ["data.source=data/imagenet-1k"])  # of known size
    cells = {cell.name: cell for cell in expand(study)}
    steps = {name: (cell.num_steps, cell.num_own_steps) for name, cell in cells.items() if "zepto" in name}
    assert [steps[f"lengths/gf-zepto_i{images}_s0"] for images in (560, 1120, 2240, 4480)] == [
        (9, 2),
        (18, 4),
        (35, 7),
        (70, 70),
    ]
    schedules = [plan_schedule(cell.config.schedule, steps_per_epoch=cell.steps_per_epoch) for cell in cells.values()]
    assert {schedule.num_warmup_steps for schedule in schedules} == {2}
    assert cells["cosine/gf-zepto_i4480_s0"].num_steps == 70
