import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from scaling.analysis import fit_study, judge_predictions, list_laws, write_fits, write_predictions
from scaling.budgets import describe_budgets, find_budgets, list_isoflop_rows, plot_budgets
from scaling.charts import Figure, Series, render_chart, save_charts
from scaling.checklist import list_answers
from scaling.config import LAWS
from scaling.costs import estimate
from scaling.expansion import expand
from scaling.families import compare_families
from scaling.families import describe as say_difference
from scaling.figures import make_figures
from scaling.ledger import Cost, add_taken, write_planned
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
    return collect(study, cells, networks=describe(cells), standings=look(study, cells))


@pytest.mark.slow
def test_cells_csv_has_every_run_and_what_it_gave(study_of):
    lost = "grid/gf-atto_f0.25_e2_s0"
    study, cells = study_of({"grid": WIDE}, unfinished=[lost])
    write_planned(study, {cell.run: Cost(seconds=25.0, source="measured") for cell in cells})
    add_taken(study, "grid/gf-femto_f1_e2_s1", 24.0)
    add_taken(study, "grid/gf-femto_f1_e2_s1", 6.0)
    write_results(study, results_of(study, cells))
    rows = {row["name"]: row for row in csv.DictReader((study.folder / "cells.csv").open())}
    assert len(rows) == 24
    assert (rows[lost]["state"], rows[lost]["value"]) == ("missing", "")
    row = rows["grid/gf-femto_f1_e2_s1"]
    assert (row["N"], row["num_parameters"], row["U"], row["T"]) == ("1700000", "1700500", "48", "96")
    assert (float(row["C"]), row["seconds"], row["seconds_planned"]) == (5.0e9, "30.0", "25.0")
    assert rows["grid/gf-femto_f1_e2_s0"]["seconds"] == "20.0", "as the run says, where no runner saw it end"
    assert row["value"] == row["loss"] != "9.0"


@pytest.mark.slow
def test_the_metric_and_the_weights_are_those_that_the_study_names(study_of):
    study, cells = study_of({"grid": WIDE}, measure={"metric": "top1_error", "weights": "ema"})
    assert {result.value for result in results_of(study, cells)} == {0.99}
    finish(study, cells[0], evaluations=[{"weights": "raw", "loss": 1.0, "top1": 3.0}])
    result = results_of(study, cells)[0]
    assert (result.value, result.reason) == (None, "its last step was not evaluated with ema weights")


@pytest.mark.slow
def test_a_shared_run_counts_once(study_of):
    study, cells = study_of({"grid": WIDE, "again": WIDE | {"fractions": [1.0]}})
    assert len(cells) == 30
    assert len(list_measurements(results_of(study, cells))) == 24


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    finish(study, held[1], evaluations=[{"weights": "raw", "loss": float("nan"), "top1": 1.0}])  # it will never come
    results = results_of(study, cells)
    (prediction,) = judge_predictions(study, results)
    assert (prediction["measured"], prediction["without_result"]) == (None, [held[1].name])
    page = next(part for part in list_parts(study, [], results, [prediction]) if part.name == "Predictions")
    assert page.table[1][0][3] == f"not judged: no result of {held[1].name}, and the mean of 2 runs was foretold"
    finish(study, held[1], evaluations=[{"weights": "raw", "loss": 0.003, "top1": 99.0}])
    (judged,) = judge_predictions(study, results_of(study, cells))
    assert judged["measured"] == pytest.approx(0.002)
    assert judged["is_inside"] is False


@pytest.mark.slow
@pytest.mark.filterwarnings("error:No artists with labels")
def test_a_figure_of_held_out_points_alone_has_no_legend(tmp_path):
    series = Series(label="gf", x=(1.0, 2.0), y=(1.1, 2.1), names=("a", "b"), is_held_out=(True, True))
    figure = Figure(file="foretold", title="", x_name="law", y_name="run", series=(series,), note="2 runs")
    save_charts([figure], tmp_path)
    assert (tmp_path / "foretold.svg").exists()


@pytest.mark.slow
def test_the_page_names_what_is_missing_and_loads_nothing(study_of):
    lost = "grid/gf-atto_f0.25_e2_s0"
    study, cells = study_of({"grid": WIDE, "tuned": TUNED, "large": LARGE}, unfinished=[lost], fit={"resamples": 20})
    write_planned(study, {cell.run: Cost(seconds=15.0, source="measured") for cell in cells[:2]})
    results = results_of(study, cells)
    fits = fit_study(study, results)
    write_predictions(study, fits, results)
    figures = make_figures(fits, results, metric="loss", study=study)
    assert save_charts(figures, study.folder / "figures") is None
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
    assert "1 runs took 20 s and were said to take 15 s, 0.75 of it." in markdown
    assert "| grid/gf-atto_f0.25_e2_s1 | 15 s | 20 s | 0.75 |" in markdown
    assert "| held out and foretold | large/gf-nano_f1_e2_s0" in (study.folder / "checklist.md").read_text()


@pytest.mark.slow
def test_a_study_of_shares_and_of_lengths_is_fitted_by_laws_of_both(study_of, tmp_path):
    """Whatever `fit.data` says: with one of the two alone, runs of two lengths would pass for seeds of one cell."""
    groups = {"grid": WIDE | {"epochs": [2, 4, 8]}}
    study, cells = study_of(groups)
    results = results_of(study, cells)
    measurements = list_measurements(results)
    for data, asked, laws in (
        ("U", [], ["repeated", "three_term"]),
        ("T", [], ["repeated", "three_term"]),
        ("U", ["repeated"], ["repeated"]),
        ("U", ["kaplan"], ["kaplan"]),
    ):
        asking = make_study(tmp_path, groups=groups, fit={"data": data, "laws": asked})
        found = list_laws(asking, measurements, num_classes=3)
        assert [law.name for law in found] == laws
    known = {law.name for law in list_laws(study, measurements, num_classes=3)}
    same_length = [run for run in measurements if run.factors["T"] == 2 * run.factors["U"]]
    known |= {law.name for law in list_laws(study, same_length, num_classes=3)}
    known |= {
        law.name for law in list_laws(study, [run for run in same_length if run.factors["U"] == 48], num_classes=3)
    }
    assert known == set(LAWS), "a study may ask for each law"
    (pooled,) = fit_study(make_study(tmp_path, groups=groups, fit={"laws": ["kaplan"]}), results)
    assert "mixed_cells" in {flag.code for flag in pooled.fit.flags}
    (found,) = fit_study(make_study(tmp_path, groups=groups, fit={"laws": ["repeated"], "resamples": 20}), results)
    assert (found.fit.law.factors, len(found.fit.cells)) == (("N", "U", "T"), 36)
    assert "mixed_cells" not in {flag.code for flag in found.fit.flags}
    assert dict(list_answers(study, [found], results))["data"] == "U and T: unique images and images seen"
    (text,) = describe_budgets(study, [], [found], results)
    assert text.startswith("No frontier of gf: repeated has no frontier in closed form")
    figures = {each.file: each for each in make_figures([found], results, metric="loss")}
    assert not any(series.curve_x for series in figures["loss_U"].series), "of many lengths there is no one curve"
    assert any(series.curve_x for series in figures["loss_T"].series)


def finish_both(study, cells, *, better=0.0):
    """Two families of one law; 7x7 is lower by `better` in the logarithm. Each image's loss is kept."""
    for cell in cells:
        loss = true_loss(cell) * math.exp(-better if cell.family == "7x7" else 0.0)
        row = {"step": 4, "weights": "raw", "loss": loss, "top1": 50.0}
        finish(study, cell, evaluations=[row], training_flops=6 * SIZES[cell.size] * cell.images_seen)
        folder = study.folder / cell.run / "per_image"
        folder.mkdir(exist_ok=True)
        spread = np.linspace(0.5, 1.5, 21)  # the same images are hard for all
        np.savez_compressed(
            folder / "step_00000004_raw.npz",
            key_hash=np.arange(21), loss=(loss * spread).astype(np.float16), hit=spread < 1,
        )  # fmt: skip


@pytest.mark.slow
def test_images_that_all_runs_share_widen_the_intervals_of_a_law_and_not_of_a_difference(study_of):
    study, cells = study_of({"grid": WIDE | {"families": ["gf", "7x7"]}}, fit={"resamples": 200})
    finish_both(study, cells)
    results = results_of(study, cells)
    assert {len(run.images.values) for run in results} == {21}
    widths, differences = [], []
    for each in (results, [replace(run, images=None) for run in results]):
        fits = fit_study(study, each)
        interval = fits[0].resampled.curve({"N": 3.1e6, "U": 48.0, "T": 96.0, "C": 1.0})
        widths.append(math.log(interval.high / interval.low))
        (compared,) = compare_families(study, fits, each)
        differences.append(compared.difference.interval.high - compared.difference.interval.low)
    # 21 images whose losses scatter by 0.3 of their mean: 0.07 in the mean, four of these wide.
    assert widths[0] > 3 * widths[1]
    assert widths[0] == pytest.approx(4 * 0.303 / math.sqrt(21), rel=0.35)
    assert differences[0] < 0.5 * widths[0]
    lost = [replace(results[0], images=None), *results[1:]]
    assert list_measurements(lost)[1].image_values is None


@pytest.mark.slow
def test_two_families_are_compared_at_places_that_both_have_and_by_their_laws(study_of):
    study, cells = study_of({"grid": WIDE | {"families": ["gf", "7x7"]}}, fit={"resamples": 100})
    finish_both(study, cells, better=0.2)
    (study.folder / "grid/7x7-femto_f1_e2_s1/summary.json").unlink()  # its twin of gf is left out too
    results = results_of(study, cells)
    fits = fit_study(study, results)
    (found,) = compare_families(study, fits, results)
    assert (found.num_places, found.num_better) == (12, 12)
    assert found.mean == pytest.approx(-0.2, abs=0.003)
    assert found.place == "pico_f1_e2"
    assert found.difference.value == pytest.approx(-0.2, abs=0.02)
    assert found.difference.interval.high < 0
    assert "no crossover inside the data: 7x7 is better throughout" in found.crossover.text
    text = " ".join(say_difference(found))
    assert "7x7 is 18 % below gf, the mean over 12 places of the grid that both have" in text
    assert "a difference." in text
    write_fits(study, fits, [found.as_json()])
    written = json.loads((study.folder / "fits.json").read_text())["comparisons"][0]
    assert (written["families"], written["is_paired"]) == (["gf", "7x7"], True)
    assert written["interval"][0] < written["log_ratio"] < written["interval"][1] < 0


@pytest.mark.slow
def test_families_without_enough_cells_are_compared_by_what_was_measured_alone(study_of):
    groups = {"grid": WIDE | {"families": ["gf", "7x7"], "fractions": [0.5, 1.0]}}
    study, cells = study_of(groups)
    finish_both(study, cells)
    results = results_of(study, cells)
    (found,) = compare_families(study, fit_study(study, results), results)
    assert found.num_places == 6
    assert "By the laws: not compared: 6 cells are too few for an interval: 12 are the least." in say_difference(found)
    assert dict(list_answers(study, [], results))["comparisons of families"] == "1"
    third = [*results, *(replace(run, family="third") for run in results[:2])]
    assert dict(list_answers(study, [], third))["comparisons of families"] == "3, none corrected for the others"
    (lonely,) = [compare_families(study, fits, results) for fits in [fit_study(study, results)[:1]]]
    assert lonely == []


@pytest.mark.slow
def test_runs_of_equal_compute_are_isoflop_curves_with_their_warnings(study_of):
    study, cells = study_of({"grid": WIDE}, fit={"data": "T"})
    results = results_of(study, cells)
    # Three sizes of each budget; the middle one is best at both.
    made = []
    for budget in (1e12, 4e12):
        for size, loss in ((1e6, 1.2), (2e6, 1.0), (4e6, 1.2)):
            run = replace(
                results[0], name=f"b{budget:g}s{size:g}", N=int(size), C=budget * (1 + 1e-3 * size / 1e6), value=loss,
                state="finished",
            )  # fmt: skip
            made.append(run)
    (found,) = find_budgets(made)
    assert [curve.best_size for curve in found.curves.curves] == pytest.approx([2e6, 2e6], rel=1e-6)
    rows = list_isoflop_rows([found])
    assert [(row[2], row[4], row[5]) for row in rows] == [("2M", "3", "fewer than 2 points on a side")] * 2
    (text,) = describe_budgets(study, [found], [], made)
    assert "parabolas are biased where the law is asymmetric" in text
    assert "2 usable budgets: no line can be judged by its points" in text
    (figure,) = plot_budgets([found], metric="loss")
    assert [series.is_held_out for series in figure.series] == [(False, False, False, True)] * 2
    # The same budgets on a quarter of the images, where the smallest is best, and the largest have failed.
    fewer = [
        replace(run, name=f"f0.25-{run.name}", U=run.U // 4, value=run.value + run.N / 1e6)
        for run in made
        if run.N < 4e6
    ]
    (of_all,) = find_budgets([*made, *fewer])
    assert [curve.best_size for curve in of_all.curves.curves] == pytest.approx([2e6, 2e6], rel=1e-6)
    assert not any(run.name.startswith("f0.25") for run in of_all.runs)
    single_epoch = [replace(run, U=int(1e6 * run.C / run.N)) for run in made]  # each size has its own share
    assert len(find_budgets(single_epoch)[0].runs) == 6
    (alone,) = find_budgets(made[:2])
    assert alone.curves is None
    assert "No budget of gf has 3 sizes" in describe_budgets(study, [alone], [], made)[0]


@pytest.mark.slow
def test_the_best_division_of_compute_has_an_interval_and_says_where_no_run_was(study_of):
    groups = {"grid": WIDE | {"fractions": [1.0], "epochs": [4, 8, 16, 32]}}
    study, cells = study_of(groups, fit={"data": "T", "laws": ["chinchilla"], "resamples": 100})
    for cell in cells:
        size, seen = SIZES[cell.size] / 1e6, cell.images_seen / 1000
        noise = 0.002 * np.random.default_rng([cell.seed, len(cell.key)]).standard_normal()
        loss = float((0.2 + 0.5 * size**-0.4 + 0.325 * seen**-0.4) * math.exp(noise))
        row = {"weights": "raw", "loss": loss, "top1": 50.0}
        finish(study, cell, evaluations=[row], training_flops=6 * SIZES[cell.size] * cell.images_seen)
    results = results_of(study, cells)
    (text,) = describe_budgets(study, [], fit_study(study, results), results)
    found = re.search(r"C = 6 N T, size as C\^(\S+) \((\S+) to (\S+)\): ", text)
    low, value, high = (float(found[index]) for index in (2, 1, 3))
    assert 0 < low < value < high < 1
    # Of equal exponents the best N / T is one number, whatever the budget.
    ratio = (0.5 / 0.325) ** (1 / 0.4) * 1e6 / 1e3
    best = [math.sqrt(edge([run.C for run in results]) / 6 * ratio) for edge in (min, max)]
    assert best[0] < SIZES["atto"] < SIZES["pico"] < best[1]
    points = re.findall(r"images \((.*?)\)", text)
    assert ["beyond what was run" in point for point in points] == [True, False, False, False, True]


@pytest.mark.slow
def test_figures_hold_intervals_the_grid_learning_and_what_was_foretold(study_of):
    groups = {"grid": WIDE | {"families": ["gf", "7x7"]}, "large": LARGE}
    study, cells = study_of(groups, fit={"resamples": 50})
    finish_both(study, [cell for cell in cells if not cell.is_held_out])
    folder = study.folder / "grid/gf-pico_f1_e2_s0"
    rows = [{"step": step, "images_seen": 4 * step, "loss": 3.0 / step} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = results_of(study, cells)
    fits = fit_study(study, results)
    write_predictions(study, fits, results)
    finish_both(study, [cell for cell in cells if cell.is_held_out])
    results = results_of(study, cells)
    judged = judge_predictions(study, results)
    figures = {each.file: each for each in make_figures(fits, results, metric="loss", judged=judged, study=study)}
    assert set(figures) == {"loss_N", "loss_U", "loss_C", "loss_map_gf", "loss_map_7x7", "loss_foretold", "learning"}
    curve = next(series for series in figures["loss_N"].series if series.label == "gf, U 48")
    assert len(curve.band) == len(curve.curve_x) == 40
    assert all(low <= y <= high for (low, high), y in zip(curve.band, curve.curve_y, strict=True))
    grid = figures["loss_map_gf"]
    assert (grid.rows, grid.columns) == (("atto", "femto", "pico", "nano"), ("0.25", "0.5", "0.75", "1"))
    assert grid.values[3][:3] == (None, None, None)
    alike = [run.value for run in results if run.name.startswith("grid/gf-atto_f0.25")]
    assert grid.values[0][0] == pytest.approx(sum(alike) / 2)
    foretold = figures["loss_foretold"].series[-1]
    assert (foretold.x, foretold.y) == ((judged[0]["measured"],), (judged[0]["value"],))
    assert foretold.errors == ((judged[0]["low"], judged[0]["high"]),)
    (learning,) = figures["learning"].series
    assert (learning.label, learning.curve_x, learning.curve_y) == ("gf pico", (4.0, 8.0, 12.0), (3.0, 1.5, 1.0))
    for figure in figures.values():
        assert str(render_chart(figure)).startswith("<svg")


@pytest.mark.slow
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
    assert "what is left takes: about 20 s, 2 at a time" in text, "a run is not divided"
    row = next(row for row in json.loads((study.folder / "plan.json").read_text())["rows"] if row["size"] == "pico")
    assert row["training_flops"] == row["T"] * int(6 * 3.1e6)
