import argparse
import json

import pytest

from hornet.cli import scaling
from hornet.cli.scaling import read_seconds
from scaling import costs
from scaling.expansion import expand
from tests.unit.scaling.studies import GRID, make_study, write_study

SMALL = GRID | {"families": ["gf"], "fractions": [1.0]}


def call(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["hornet scaling", *map(str, words)])
    monkeypatch.setattr(scaling, "catch_signals", lambda: None)
    with pytest.raises(SystemExit) as ended:
        scaling.main()
    return ended.value.code


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90min", 5400), ("2h", 7200), ("1.5d", 129_600)])
def test_a_budget_is_a_length_of_time_with_its_unit(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "-1h", "0h", "1w"])
def test_another_budget_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a length of time such as 90min, 2h or 1\.5d"):
        read_seconds(text)


def test_status_tells_what_stands_how_and_why(tmp_path, monkeypatch, capsys):
    path = write_study(tmp_path, groups={"grid": SMALL})
    folder = tmp_path / "runs/toy"
    (folder / "grid/gf-atto_f1_e2_s1").mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"failed": {"grid/gf-femto_f1_e2_s0": "exit code 3: out of luck"}}))
    monkeypatch.setattr("sys.argv", ["hornet scaling", "status", "--config", str(path)])
    scaling.main()
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: 1 started, 1 failed, 2 missing",
        "nobody is running it",
        "  started  grid/gf-atto_f1_e2_s1",
        "  failed   grid/gf-femto_f1_e2_s0: exit code 3: out of luck",
    ]


def test_a_study_whose_set_is_not_here_cannot_run(tmp_path, monkeypatch, capsys):
    path = write_study(tmp_path, groups={"grid": SMALL}, data={"source": str(tmp_path / "imagenet-1k")})
    assert call(monkeypatch, "run", "--config", path) == 2
    assert f"error: {tmp_path / 'imagenet-1k'}: there is no set of shards; build it first" in capsys.readouterr().err


def test_a_budget_for_runs_of_unknown_cost_is_refused(tmp_path, monkeypatch, capsys):
    path = write_study(tmp_path, groups={"grid": SMALL})
    facts = {"num_parameters": 9, "num_head_parameters": 1, "flops_per_image": 5}
    monkeypatch.setattr(
        "scaling.networks.describe_networks",
        lambda cells, folder: {cell.name: argparse.Namespace(**facts, size=8) for cell in cells},
    )
    assert call(monkeypatch, "run", "--config", path, "--budget", "2h") == 2
    assert "--budget: what grid/gf-atto_f1_e2_s0 takes is not known (4 such runs); measure it with" in (
        capsys.readouterr().err
    )


def test_a_measurement_times_the_last_steps_of_a_short_run_once(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL | {"sizes": ["atto"]}})
    study.folder.mkdir(parents=True)
    calls = []

    def start(cell, config, log):
        calls.append(config.read_text())
        run = config.parent / "run"
        run.mkdir()
        rows = [{"step_seconds": seconds} for seconds in (9.0, 5.0, 0.4, 0.4, 0.4, 0.8)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return 0

    costs.measure(study, expand(study), start=start)
    costs.measure(study, expand(study), start=start)
    assert len(calls) == 1
    assert "evaluation: null" in calls[0]
    assert [speed.seconds_per_image for speed in costs.read_speeds(study).values()] == [0.1]  # 0.4 s for 4 images


def test_a_measurement_that_fails_names_its_log(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path, groups={"grid": SMALL | {"sizes": ["atto"]}})
    study.folder.mkdir(parents=True)
    with pytest.raises(costs.UserError, match=r"6 steps to time it failed with exit code 1; see .*measure/log"):
        costs.measure(study, expand(study), start=lambda *_: 1)
