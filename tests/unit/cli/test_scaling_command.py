import argparse
import json

import pytest

from hornet.cli import scaling
from hornet.cli.command_line import read_seconds
from scaling.expansion import expand
from scaling.ledger import Cost, add_taken, write_planned
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


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["plan", "--gpus", "4"], "--gpus: says how many of --gpu KIND; give that too"),
        (["plan", "--gpus", "0", "--gpu", "b200"], "argument --gpus: must be above 0, not 0"),
        (["plan", "--measure", "--gpu", "b200"], "--measure: times this machine, and --gpu asks for costs on another"),
        (["run", "--sbatch=--partition=gpu"], "--sbatch: is for --slurm; give that too"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, monkeypatch, capsys, words, text):
    path = write_study(tmp_path, groups={"grid": SMALL})
    assert call(monkeypatch, words[0], "--config", path, *words[1:]) == 2
    assert text in capsys.readouterr().err


def test_status_tells_what_finished_runs_took_beside_what_they_were_said_to_take(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path, groups={"grid": SMALL})
    first, second, *_ = expand(study)
    for cell in (first, second):
        (study.folder / cell.run).mkdir(parents=True)
        (study.folder / cell.run / "summary.json").write_text(json.dumps({"digest": cell.digest}))
    write_planned(study, {cell.run: Cost(seconds=90.0, source="measured") for cell in expand(study)})
    add_taken(study, first.run, 100.0)  # the second one was finished by somebody else
    monkeypatch.setattr("sys.argv", ["hornet scaling", "status", "--config", str(study.path)])
    scaling.main()
    assert "1 runs took 1 min 40 s and were said to take 1 min 30 s, 0.90 of it" in capsys.readouterr().out
