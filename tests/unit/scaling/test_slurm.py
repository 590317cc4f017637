import json
import shutil

import pytest

from hornet.errors import UserError
from scaling.expansion import expand
from scaling.slurm import submit
from tests.unit.scaling.studies import GRID, TUNED, make_study

SMALL = GRID | {"families": ["gf"], "fractions": [1.0]}
SBATCH = """#!/bin/sh
number=$(($(cat {0}/number 2>/dev/null || echo 100) + 1))
echo $number > {0}/number
echo "$@" >> {0}/calls
echo $number
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Put stand-ins of sbatch and squeue on the path; return what sbatch was given, a list for each call."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH.format(programs)), ("squeue", f"#!/bin/sh\ncat {programs}/alive\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "alive").touch()
    monkeypatch.setenv("PATH", str(programs), prepend=":")

    def read():
        path = programs / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    read.folder = programs
    return read


def finish(study, cell):
    (study.folder / cell.run).mkdir(parents=True)
    (study.folder / cell.run / "summary.json").write_text(json.dumps({"digest": cell.digest}))


def test_each_finetuning_waits_for_its_own_parent(tmp_path, calls):
    study = make_study(tmp_path, groups={"grid": SMALL, "tuned": TUNED})
    cells = expand(study)
    finish(study, cells[0])
    text = submit(study, cells, cells[1:], options=["--partition=gpu"])
    assert text.splitlines() == [
        "job 101: 3 pretrainings",
        "job 102: 3 finetunings of tuned, each after its parent in job 101",
        "job 103: 1 finetunings of tuned, whose parents are finished",
    ]
    first, behind, now = calls()
    assert first[:3] == ["--parsable", "--array=1-3", "--partition=gpu"]
    assert behind[1:5] == [
        "--array=1-3", "--partition=gpu", "--dependency=aftercorr:101", "--kill-on-invalid-dep=yes",
    ]  # fmt: skip
    assert now[1] == "--array=1-1"
    parents, children = ([line.split()[1] for line in open(call[-1])] for call in (first, behind))  # noqa: PTH123, SIM115
    names = [path.rpartition("/")[2] for path in parents]
    assert names == [path.rpartition("/")[2] for path in children]
    assert all("/grid/" in path for path in parents)
    assert all("/tuned/" in path for path in children)


@pytest.mark.slow
def test_branches_wait_for_their_trunk_and_finetunings_for_those(tmp_path, calls):
    overrides = [*SMALL["overrides"], "schedule.shape=wsd"]
    lengths = SMALL | {"sizes": ["atto"], "epochs": [2, 4], "trunk": True, "overrides": overrides}
    study = make_study(tmp_path, groups={"lengths": lengths, "tuned": TUNED | {"from": "lengths", "epochs": [1, 2]}})
    cells = expand(study)
    text = submit(study, cells, cells, options=[])
    assert text.splitlines() == [
        "job 101: 2 pretrainings",
        "job 102: 2 branches of lengths, each after its trunk in job 101",
        "job 103: 2 finetunings of tuned, each after its parent in job 102",
        "job 104: 2 finetunings of tuned, each after its parent in job 102",
        "job 105: 2 finetunings of tuned, each after its parent in job 101",
        "job 106: 2 finetunings of tuned, each after its parent in job 101",
    ]
    assert calls()[1][2:4] == ["--dependency=aftercorr:101", "--kill-on-invalid-dep=yes"]
    trunks, first = (open(call[-1]).read().splitlines() for call in calls()[:2])  # noqa: PTH123, SIM115
    assert [line.replace("_e4_", "_e2_") for line in trunks] == first, "each behind the trunk of its own seed"
    submitted = json.loads((study.folder / "submitted.json").read_text())
    assert len(submitted) == len(cells) == 12, "none is left out, though several wait for the same one"


def test_what_is_in_the_queue_is_not_submitted_again(tmp_path, calls):
    study = make_study(tmp_path, groups={"grid": SMALL})
    cells = expand(study)
    submit(study, cells, cells, options=[])
    (calls.folder / "alive").write_text("101\n")
    assert submit(study, cells, cells, options=[]) == "4 runs are in the queue already"
    assert len(calls()) == 1
    (calls.folder / "alive").write_text("7\n")
    assert submit(study, cells, cells, options=[]) == "job 102: 4 pretrainings"


def test_a_finetuning_whose_parent_is_in_the_queue_already_is_told_to_wait(tmp_path, calls):
    study = make_study(tmp_path, groups={"grid": SMALL, "tuned": TUNED})
    cells = expand(study)
    submit(study, cells, [cell for cell in cells if cell.group == "grid"], options=[])
    (calls.folder / "alive").write_text("101\n")
    assert submit(study, cells, cells, options=[]).splitlines() == [
        "4 finetunings of tuned wait for parents that were submitted before: this again, then",
        "4 runs are in the queue already",
    ]
    assert len(calls()) == 1


def test_what_is_held_out_is_submitted_once_it_is_foretold(tmp_path, calls):
    study = make_study(tmp_path, groups={"large": SMALL | {"sizes": ["pico"], "predict_first": True}})
    cells = expand(study)
    assert submit(study, cells, cells, options=[]).startswith("2 runs wait to be foretold: `fit` once the others")
    assert calls() == []
    said = {"name": "large/gf-pico_f1_e2", "value": 2.0, "low": None, "high": None, "written_at": "2026-11-26"}
    predictions = {"predictions": [said]}
    (study.folder / "predictions.json").write_text(json.dumps(predictions))
    assert submit(study, cells, cells, options=[]) == "job 101: 2 pretrainings"


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    study = make_study(tmp_path, groups={"grid": SMALL})
    cells = expand(study)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/env").symlink_to(shutil.which("env"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=r"--slurm: sbatch was not found; is this a SLURM cluster\?"):
        submit(study, cells, cells, options=[])


def test_what_sbatch_refuses_is_told(tmp_path, calls):
    study = make_study(tmp_path, groups={"grid": SMALL})
    cells = expand(study)
    (calls.folder / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: x' >&2\nexit 1\n")
    with pytest.raises(UserError, match="--slurm: sbatch refused: invalid partition specified: x"):
        submit(study, cells, cells, options=[])


def test_what_was_submitted_before_sbatch_refuses_is_remembered(tmp_path, calls):
    """A queue takes only so many jobs of a user; the first array stands in it, and is not submitted again."""
    study = make_study(tmp_path, groups={"grid": SMALL, "tuned": TUNED})
    cells = expand(study)
    program = calls.folder / "sbatch"
    willing = program.read_text()
    limit = "case \"$*\" in *aftercorr*) echo 'QOSMaxSubmitJobPerUserLimit' >&2; exit 1;; esac"
    program.write_text(willing.replace("#!/bin/sh", f"#!/bin/sh\n{limit}"))
    with pytest.raises(UserError, match="--slurm: sbatch refused: QOSMaxSubmitJobPerUserLimit"):
        submit(study, cells, cells, options=[])
    (calls.folder / "alive").write_text("101\n")
    program.write_text(willing)
    assert submit(study, cells, cells, options=[]).splitlines() == [
        "4 finetunings of tuned wait for parents that were submitted before: this again, then",
        "4 runs are in the queue already",
    ]
