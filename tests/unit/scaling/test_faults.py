"""What can be wrong in a study's folder: each is said in a sentence that names the file, or the run, and what to do."""

import json
import platform
import shutil
import subprocess
from argparse import Namespace

import pytest

from hornet.cli import scaling as cli
from hornet.config import ConfigError
from hornet.errors import UserError
from scaling.costs import estimate
from scaling.expansion import expand
from scaling.ledger import read_ledger
from scaling.networks import NetworkFacts, describe_networks
from scaling.pool import hold_study, write_cell
from scaling.results import collect
from scaling.shares import make_shares
from scaling.state import look
from tests.unit.scaling.studies import GRID, make_study, write_study

SMALL = GRID | {"families": ["gf"], "sizes": ["atto"], "fractions": [1.0], "seeds": [0]}


def finish(study, cell, loss=2.0, **changes):
    folder = study.folder / cell.run
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 4, "weights": "raw", "loss": loss, "top1": 50.0}]
    summary = {"digest": cell.digest, "evaluations": rows, "seconds": 20.0, "images_per_second": 100.0}
    summary |= {"images_seen": 96, "steps": 24} | changes
    (folder / "summary.json").write_text(json.dumps(summary))


def describe(cells, folder=None):
    facts = NetworkFacts(num_parameters=900_000, num_head_parameters=500, flops_per_image=10)
    return {cell.name: facts for cell in cells}


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_a_run_that_has_diverged_is_in_no_fit_and_says_so(tmp_path, loss):
    study = make_study(tmp_path, groups={"grid": SMALL})
    (cell,) = expand(study)
    finish(study, cell, loss)
    (result,) = collect(study, [cell], networks=describe([cell]), standings=look(study, [cell]))
    assert (result.state, result.value, result.reason) == ("finished", None, "its loss is not finite: it has diverged")
    finish(study, cell, 0.0)
    (result,) = collect(study, [cell], networks=describe([cell]), standings=look(study, [cell]))
    assert (result.value, result.reason) == (None, "its loss is 0, and laws are of positive numbers")


def test_a_summary_that_lacks_its_speed_tells_no_costs(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    (cell,) = expand(study)
    finish(study, cell, seconds=None)
    assert estimate(study, [cell], describe([cell]), look(study, [cell])) == {}
    finish(study, cell)
    assert list(estimate(study, [cell], describe([cell]), look(study, [cell]))) == [cell.name]


@pytest.mark.parametrize("name", ["summary.json", "status.json"])
def test_a_run_whose_files_are_damaged_is_told_and_the_others_stand(tmp_path, name):
    study = make_study(tmp_path, groups={"grid": SMALL | {"seeds": [0, 1]}})
    cells = expand(study)
    for cell in cells:
        finish(study, cell)
    broken = study.folder / cells[0].run / name
    if name == "status.json":
        (broken.parent / "summary.json").unlink()
    broken.write_text('{"digest": "12')
    standings = look(study, cells)
    assert [standings[cell.name].state for cell in cells] == ["failed", "finished"]
    assert standings[cells[0].name].reason.startswith(f"{broken}: is not JSON")
    assert standings[cells[0].name].reason.endswith("move the file away to go on")
    results = collect(study, cells, networks=describe(cells), standings=standings)
    assert [result.value for result in results] == [None, 2.0]


def test_a_commit_that_cannot_be_read_is_not_known_and_costs_no_result(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    (cell,) = expand(study)
    finish(study, cell)
    (study.folder / cell.run / "environment.json").write_text("{")
    (result,) = collect(study, [cell], networks=describe([cell]), standings=look(study, [cell]))
    assert (result.value, result.commit) == (2.0, None)


def test_a_run_that_ended_on_a_set_that_is_not_here_is_not_called_unfinished_without_a_reason(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL | {"fractions": [0.5]}})
    make_shares([cell.share for cell in expand(study)])
    (cell,) = expand(study)
    finish(study, cell)
    assert look(study, [cell])[cell.name].state == "finished"
    shutil.rmtree(cell.share.folder)
    (cell,) = expand(study)
    standing = look(study, [cell])[cell.name]
    assert (standing.state, standing.summary) == ("started", None)
    text = "it has ended, but its set is not here, so whether it is what the study asks for is not known"
    assert standing.reason == text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("costs.json", {"grid/a": 1}),
        ("costs.json", {"grid/a": {"price": 1}}),
        ("networks.json", {"net": [1]}),
        ("status.json", {"failed": 3}),
        ("predictions.json", {"predictions": [1]}),
        ("predictions.json", {"predictions": {"a": 1}}),
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path, name, content):
    from scaling.analysis import read_predictions

    study = make_study(tmp_path, groups={"grid": SMALL})
    study.folder.mkdir(parents=True)
    (study.folder / name).write_text(json.dumps(content))
    cells = expand(study)
    reads = {
        "costs.json": lambda: read_ledger(study),
        "networks.json": lambda: describe_networks(cells, study.folder),
        "status.json": lambda: look(study, cells),
        "predictions.json": lambda: read_predictions(study),
    }
    with pytest.raises(UserError, match=rf"{name}: does not hold what a study writes there; move the file away to go"):
        reads[name]()


@pytest.mark.parametrize("command", [cli.plan, cli.run, cli.collect, cli.fit, cli.report])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path, command):
    (tmp_path / "file").write_text("")
    path = write_study(tmp_path, groups={"grid": SMALL}, study={"name": "toy", "root": str(tmp_path / "file")})
    text = r"file/toy: the study's folder cannot be written \(Not a directory\); choose another study.root"
    with pytest.raises(UserError, match=text):
        command(Namespace(config=path, overrides=[], measure=False, budget=None, gpu=None, slurm=False))


def test_names_that_would_leave_the_study_are_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        make_study(tmp_path, groups={"grid": SMALL | {"families": ["../x", "a b", ""], "sizes": ["x/y"]}})
    assert caught.value.problems == [
        "groups.grid.families: may hold letters, digits, _ - and ., not '../x'",
        "groups.grid.families: may hold letters, digits, _ - and ., not 'a b'",
        "groups.grid.families: may hold letters, digits, _ - and ., not ''",
        "groups.grid.sizes: may hold letters, digits, _ - and ., not 'x/y'",
    ]


def test_families_whose_names_hold_underscores_have_the_same_places(tmp_path):
    overrides = ["model.name=hornet_{size}_gf", *SMALL["overrides"][1:]]
    per = {"my_gf": ["schedule.peak_lr=1e-3"]}
    groups = {"grid": SMALL | {"families": ["gf", "my_gf"], "fractions": [0.5, 1.0], "overrides": overrides}}
    cells = expand(make_study(tmp_path, groups=groups, per=per))
    assert [cell.place for cell in cells] == ["atto_f0.5_e2", "atto_f1_e2"] * 2


def test_a_runner_that_was_killed_before_its_first_run_started_holds_nobody_up(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    (cell,) = expand(study)
    gone = subprocess.Popen(["true"])
    gone.wait()
    write_cell(study, cell)  # it had come this far
    (study.folder / "owner.json").write_text(json.dumps({"token": "a", "host": platform.node(), "pid": gone.pid}))
    with hold_study(study):
        assert look(study, [cell])[cell.name].state == "missing"
