import csv
import json
import math
import re

import numpy as np
import pytest

from scaling.analysis import fit_study, judge_predictions, write_fits, write_predictions
from scaling.costs import Cost, Speed, estimate
from scaling.expansion import expand
from scaling.figures import make_figures, save_figures
from scaling.networks import NetworkFacts
from scaling.page import list_parts, write_html, write_markdown
from scaling.plan import format_plan, make_plan, write_plan
from scaling.results import collect, list_measurements, write_results
from scaling.shares import make_shares
from scaling.state import look
from tests.unit.scaling.studies import GRID, TUNED, make_study

SIZES = {"atto": 0.8e6, "femto": 1.7e6, "pico": 3.1e6, "nano": 7.7e6}
WIDE = GRID | {"families": ["gf"], "sizes": ["atto", "femto", "pico"], "fractions": [0.25, 0.5, 0.75, 1.0]}
LARGE = WIDE | {"sizes": ["nano"], "fractions": [1.0], "predict_first": True}


def describe(cells):
    return {
        cell.name: NetworkFacts(
            num_parameters=int(SIZES[cell.size]) + 500,
            num_head_parameters=500,
            flops_per_image=int(6 * SIZES[cell.size]),
        )
        for cell in cells
    }


def true_loss(cell):
    noise = 0.002 * np.random.default_rng([cell.seed, len(cell.key)]).standard_normal()
    size, images = SIZES[cell.size] / 1e6, cell.train.num_samples / 24
    return float((0.2 + 0.5 * size**-0.4 + 0.4 * images**-0.6) * math.exp(noise))


def finish(study, cell, **changes):
    folder = study.folder / cell.run
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"weights": "raw", "loss": true_loss(cell), "top1": 50.0}, {"weights": "ema", "loss": 9.0, "top1": 1.0}]
    summary = {
        "digest": cell.digest,
        "evaluations": rows,
        "seconds": 20.0,
        "images_per_second": 100.0,
        "images_seen": cell.images_seen,
        "training_flops": 5.0e9,
    }
    (folder / "summary.json").write_text(json.dumps(summary | changes))


@pytest.fixture
def study_of(tmp_path):
    def make(groups, *, unfinished=(), **sections):
        study = make_study(tmp_path, groups=groups, **sections)
        make_shares([share for share in dict.fromkeys(cell.share for cell in expand(study)) if share is not None])
        cells = expand(study)
        for cell in cells:
            if cell.name not in unfinished and not cell.is_held_out:
                finish(study, cell)
        return study, cells

    return make


def results_of(study, cells):
    costs = {cell.name: Cost(seconds=25.0, source="measured") for cell in cells}
    return collect(study, cells, networks=describe(cells), standings=look(study, cells), costs=costs)


def test_cells_csv_has_every_run_and_what_it_gave(study_of):
    lost = "grid/gf-atto_f0.25_e2_s0"
    study, cells = study_of({"grid": WIDE}, unfinished=[lost])
    write_results(study, results_of(study, cells))
    rows = {row["name"]: row for row in csv.DictReader((study.folder / "cells.csv").open())}
    assert len(rows) == 24
    assert (rows[lost]["state"], rows[lost]["value"]) == ("missing", "")
    row = rows["grid/gf-femto_f1_e2_s1"]
    assert (row["N"], row["num_parameters"], row["U"], row["T"]) == ("1700000", "1700500", "48", "96")
    assert (float(row["C"]), row["seconds"], row["seconds_planned"]) == (5.0e9, "20.0", "25.0")
    assert row["value"] == row["loss"] != "9.0"


def test_the_metric_and_the_weights_are_those_that_the_study_names(study_of):
    study, cells = study_of({"grid": WIDE}, measure={"metric": "top1_error", "weights": "ema"})
    assert {result.value for result in results_of(study, cells)} == {0.99}
    finish(study, cells[0], evaluations=[{"weights": "raw", "loss": 1.0, "top1": 3.0}])
    result = results_of(study, cells)[0]
    assert (result.value, result.reason) == (None, "its last step was not evaluated with ema weights")


def test_a_shared_run_counts_once(study_of):
    study, cells = study_of({"grid": WIDE, "again": WIDE | {"fractions": [1.0]}})
    assert len(cells) == 30
    assert len(list_measurements(results_of(study, cells))) == 24


def test_a_fit_names_what_it_has_not_seen_and_has_intervals_from_12_cells_on(study_of):
    lost = "grid/gf-atto_f0.25_e2_s0"
    study, cells = study_of({"grid": WIDE}, unfinished=[lost], fit={"resamples": 50})
    (found,) = fit_study(study, results_of(study, cells))
    assert found.without_result == (f"{lost} (missing)",)
    assert found.choice is not None
    write_fits(study, [found])
    content = json.loads((study.folder / "fits.json").read_text())["families"][0]
    assert (content["num_cells"], content["num_runs"], content["without_result"]) == (12, 23, [f"{lost} (missing)"])
    assert set(content["intervals"]) == set(content["parameters"])
    assert {flag["code"] for flag in content["flags"]} >= {"too_few_levels"}


def test_few_cells_give_a_sentence_in_the_place_of_an_interval(study_of):
    study, cells = study_of({"grid": WIDE | {"fractions": [0.5, 1.0]}})
    (found,) = fit_study(study, results_of(study, cells))
    assert found.fit is not None
    assert "no interval: 6 cells are too few for an interval: 12 are the least" in found.remarks
    study, cells = study_of({"grid": WIDE}, unfinished=[cell.name for cell in cells], study={"name": "none"})
    # nothing at all
    for cell in cells:
        (study.folder / cell.run / "summary.json").unlink(missing_ok=True)
    (found,) = fit_study(study, results_of(study, cells))
    assert (found.fit, found.remarks) == (None, ("none of the 24 runs has a result, so there is nothing to fit",))


def test_what_is_held_out_is_foretold_before_it_starts_unseen_and_never_again(study_of):
    study, cells = study_of({"grid": WIDE, "large": LARGE}, fit={"resamples": 50})
    results = results_of(study, cells)
    assert write_predictions(study, fit_study(study, results), results) is None
    (before,) = json.loads((study.folder / "predictions.json").read_text())["predictions"]
    assert before["name"] == "large/gf-nano_f1_e2"
    assert before["low"] < before["value"] < before["high"]
    assert not [name for name in before["runs_seen"] if name.startswith("large")]
    assert judge_predictions(study, results)[0]["measured"] is None
    held = [cell for cell in cells if cell.is_held_out]
    finish(study, held[0], evaluations=[{"weights": "raw", "loss": 0.001, "top1": 99.0}])
    finish(study, cells[0], evaluations=[{"weights": "raw", "loss": 7.0, "top1": 1.0}])  # other data, another fit
    results = results_of(study, cells)
    write_predictions(study, fit_study(study, results), results)
    assert json.loads((study.folder / "predictions.json").read_text())["predictions"] == [before]
    assert judge_predictions(study, results)[0]["measured"] is None  # one seed is still missing
    finish(study, held[1], evaluations=[{"weights": "raw", "loss": 0.003, "top1": 99.0}])
    (judged,) = judge_predictions(study, results_of(study, cells))
    assert judged["measured"] == pytest.approx(0.002)
    assert judged["is_inside"] is False


@pytest.mark.slow
def test_the_page_names_what_is_missing_and_loads_nothing(study_of):
    lost = "grid/gf-atto_f0.25_e2_s0"
    study, cells = study_of({"grid": WIDE, "tuned": TUNED, "large": LARGE}, unfinished=[lost], fit={"resamples": 20})
    results = results_of(study, cells)
    fits = fit_study(study, results)
    write_predictions(study, fits, results)
    figures = make_figures(fits, results, metric="loss")
    assert save_figures(figures, study.folder / "figures") is None
    parts = list_parts(study, fits, results, judge_predictions(study, results))
    text = write_html(study, parts, figures, results).read_text()
    write_markdown(study, parts, figures, results, has_files=True)
    assert f"{lost} is missing and in no fit and no figure" in text
    assert not re.search(r"(src|href)=.?(https?:|//)", text)
    assert {path.suffix for path in (study.folder / "figures").iterdir()} == {".svg", ".pdf"}
    assert all(lost in figure.note for figure in figures)
    markdown = (study.folder / "report.md").read_text()
    for heading in ("Law of gf", "Predictions", "Transfer", "Runs", "Costs", "Checklist"):
        assert f"## {heading}" in markdown
        assert f"<h2>{heading}</h2>" in text
    assert "large/gf-nano_f1_e2" in markdown
    assert "| held out and foretold | large/gf-nano_f1_e2_s0" in (study.folder / "checklist.md").read_text()


def test_a_plan_tells_size_data_operations_state_and_cost(study_of):
    study, cells = study_of({"grid": WIDE}, unfinished=["grid/gf-pico_f1_e2_s0"])
    standings, networks = look(study, cells), describe(cells)
    costs = estimate(study, cells, networks, standings)
    # A finished run of 20 s at 100 images a second tells what the unfinished one of its network takes.
    cost = costs["grid/gf-pico_f1_e2_s0"]
    assert cost.source == "measured"
    assert cost.seconds == pytest.approx(20.0, rel=0.1)
    plan = make_plan(study, cells, networks=networks, standings=standings, costs=costs, slots=2)
    write_plan(study, plan)
    text = format_plan(plan)
    assert "24 runs: 23 finished, 1 missing" in text
    assert re.search(r"grid/gf-pico_f1_e2_s0 +3\.1M +48 +96 +2 +1\.79e\+09 +missing", text)
    assert "what is left takes: about 10 s, 2 at a time" in text
    row = next(row for row in json.loads((study.folder / "plan.json").read_text())["rows"] if row["size"] == "pico")
    assert row["training_flops"] == row["T"] * int(6 * 3.1e6)


def test_costs_of_a_network_that_was_not_measured_go_by_its_operations(study_of, monkeypatch):
    study, cells = study_of({"grid": WIDE})
    atto = next(cell for cell in cells if cell.size == "atto" and cell.fraction == 1)
    pico = next(cell for cell in cells if cell.size == "pico" and cell.fraction == 1)
    for cell in (atto, pico):
        (study.folder / cell.run / "summary.json").unlink()
    from scaling import costs as module

    monkeypatch.setattr(
        module,
        "read_speeds",
        lambda study: {module._speed_key(study, atto): Speed(seconds_per_image=0.01, start_seconds=0.0)},
    )
    found = estimate(study, [atto, pico], describe(cells), look(study, cells))
    assert found[pico.name].source == "by FLOPs"
    assert found[pico.name].seconds / found[atto.name].seconds == pytest.approx(3.1 / 0.8)
