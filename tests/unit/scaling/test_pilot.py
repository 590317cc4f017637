import json
from argparse import Namespace

import pytest
import yaml

from hornet.cli.scaling import collect, fit, pilot
from hornet.config import ConfigError
from hornet.errors import UserError
from scaling.expansion import expand
from scaling.networks import NetworkFacts
from scaling.order import sort_runs
from scaling.pilot import describe_pilot
from tests.unit.scaling.studies import GRID, TUNED, make_study, write_study

SMALL = GRID | {"families": ["gf"], "fractions": [1.0], "seeds": [0]}
RATES = ["schedule.peak_lr=1e-3", "schedule.peak_lr=2e-3", "schedule.peak_lr=4e-3"]
PILOT = SMALL | {"epochs": [1], "pilot": RATES}


@pytest.fixture
def options_of(tmp_path, monkeypatch):
    """Return a function that gives the command line of a study whose networks need not be built."""

    def describe(cells, folder):
        facts = NetworkFacts(num_parameters=900_000, num_head_parameters=500, flops_per_image=10)
        return {cell.name: facts for cell in cells}

    monkeypatch.setattr("scaling.results.describe_networks", describe)
    return lambda **sections: Namespace(config=write_study(tmp_path, **sections), overrides=[])


def finish(study, cell, loss):
    folder = study.folder / cell.run
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 4, "weights": "raw", "loss": loss, "top1": 50.0}]
    (folder / "summary.json").write_text(json.dumps({"digest": cell.digest, "evaluations": rows}))


def test_a_pilot_has_a_run_for_each_setting_and_comes_first(tmp_path):
    cells = expand(make_study(tmp_path, groups={"grid": SMALL, "rates": PILOT}))
    tried = [cell for cell in cells if cell.tried is not None]
    names = [f"gf-atto_f1_e1_schedule.peak_lr{x}_s0" for x in ("1e-3", "2e-3", "4e-3")]
    assert [cell.key for cell in tried[:3]] == names
    assert [cell.config.schedule.peak_lr for cell in tried] == 2 * [1e-3, 2e-3, 4e-3]
    assert {cell.group for cell in sort_runs(cells, seconds={})[:6]} == {"rates"}


def test_per_of_a_family_and_size_is_stronger_than_of_either_and_a_pilot_stronger_still(tmp_path):
    per = {"gf": ["schedule.peak_lr=1e-4"], "gf-atto": ["schedule.peak_lr=3e-4"], "atto": ["schedule.peak_lr=2e-4"]}
    cells = expand(make_study(tmp_path, groups={"grid": SMALL, "rates": PILOT}, per=per))
    assert [cell.config.schedule.peak_lr for cell in cells[:2]] == [3e-4, 1e-4]
    assert [cell.config.schedule.peak_lr for cell in cells[2:5]] == [1e-3, 2e-3, 4e-3]
    with pytest.raises(ConfigError, match=r"per.gf-nano: no group has a family or size of that name"):
        make_study(tmp_path, groups={"grid": SMALL}, per={"gf-nano": ["schedule.peak_lr=3e-4"]})


def test_pilots_that_cannot_be_are_refused_together(tmp_path):
    groups = {
        "grid": SMALL,
        "broken": PILOT | {"pilot": ["schedule.peak_lr", "a=b/c", "x.y=1", "x.y=1"], "predict_first": True},
        "rates": PILOT,
        "tuned": TUNED | {"from": "rates"},
        "empty": PILOT | {"pilot": []},
    }
    with pytest.raises(ConfigError) as caught:
        make_study(tmp_path, groups=groups)
    assert set(caught.value.problems) == {
        "groups.broken.pilot: holds x.y=1 twice, so runs would stand twice in the study; name it once",
        "groups.broken.pilot: 'schedule.peak_lr' is not key=value of letters, digits and _ . -",
        "groups.broken.pilot: 'a=b/c' is not key=value of letters, digits and _ . -",
        "groups.broken.pilot: stands beside predict_first; a pilot is of pretrainings that no other run needs",
        "groups.tuned.from: rates is a pilot; name a group of the study's own pretrainings",
        "groups.empty.pilot: is empty, so the group has no runs; name at least one, or leave the key out",
    }
    with pytest.raises(ConfigError, match=r"groups.rates: .*run.seed: may not be overridden; list `seeds`"):
        expand(make_study(tmp_path, groups={"rates": PILOT | {"pilot": ["run.seed=3"]}}))


@pytest.mark.slow
def test_the_best_is_said_in_words_that_the_study_reads(options_of, tmp_path, capsys):
    groups = {"grid": SMALL, "rates": PILOT | {"seeds": [0, 1]}}
    options = options_of(groups=groups)
    study = make_study(tmp_path, groups=groups)
    losses = {"atto": {"1e-3": 3.0, "2e-3": 2.0, "4e-3": 2.5}, "femto": {"1e-3": 1.0, "2e-3": 0.5}}
    for cell in expand(study):
        rate = (cell.tried or "").partition("=")[2]
        if rate in losses[cell.size] and (cell.size, rate, cell.seed) != ("femto", "2e-3", 1):
            finish(study, cell, losses[cell.size][rate] + (0.2 if cell.seed else -0.2))
    pilot(options)
    text = capsys.readouterr().out
    assert "rates/gf-atto, loss:\n  schedule.peak_lr=1e-3        3 of 2 runs\n" in text
    assert "2e-3        0.3 of 1 runs; rates/gf-femto_f1_e1_schedule.peak_lr2e-3_s1 is missing\n" in text
    assert "4e-3        no result; rates/gf-femto_f1_e1_schedule.peak_lr4e-3_s0 is missing; rates" in text
    assert "  schedule.peak_lr=1e-3 is at an end of the list: the best may lie beyond it\n" in text
    block = text[text.index("per:") :]
    assert block == (
        "per:  # found by a pilot\n  gf-atto: [schedule.peak_lr=2e-3]\n  gf-femto: [schedule.peak_lr=1e-3]\n"
    )
    chosen = expand(make_study(tmp_path, groups=groups, per=yaml.safe_load(block)["per"]))
    assert [cell.config.schedule.peak_lr for cell in chosen if cell.tried is None] == [2e-3, 1e-3]


@pytest.mark.slow
def test_no_fit_sees_a_pilot_but_for_a_run_that_the_study_asks_for_too(options_of, tmp_path, capsys):
    rates = PILOT | {"epochs": [2], "sizes": ["atto"]}  # of the grid's length, and one of them the grid's own rate
    groups = {"rates": rates, "grid": SMALL | {"overrides": [*SMALL["overrides"], "schedule.peak_lr=2e-3"]}}
    options = options_of(groups=groups)
    study = make_study(tmp_path, groups=groups)
    cells = expand(study)
    shared = next(cell for cell in cells if cell.tried == "schedule.peak_lr=2e-3")
    assert {cell.name for cell in cells if cell.run == shared.run} == {shared.name, "grid/gf-atto_f1_e2_s0"}
    for cell in cells:
        if cell.group == "rates":
            finish(study, cell, 2.0)
    fit(options)
    seen = json.loads((study.folder / "fits.json").read_text())["families"][0]
    assert seen["without_result"] == ["grid/gf-femto_f1_e2_s0 (missing)"]
    assert "power was not fitted: power has 2 parameters and needs more cells than that; there are 1" in seen["remarks"]
    collect(options)
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 runs, 3 with a result")


def test_a_study_without_a_pilot_says_how_to_give_one():
    with pytest.raises(UserError, match=r"has no pilot; give a group `pilot: \[schedule.peak_lr=1e-3, ...\]`"):
        describe_pilot([], {}, metric="loss")
