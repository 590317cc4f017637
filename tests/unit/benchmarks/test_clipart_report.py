"""Tables, JSON and figure from made-up summaries; the runs, their order and their compute from a made-up set."""

import json

import numpy as np
import pytest

from benchmarks.clipart.figure import render_figure
from benchmarks.clipart.pool import Pool
from benchmarks.clipart.report import (
    compare_classifiers,
    compare_segmenters,
    find_image_error,
    format_tables,
    read_results,
    write_report,
)
from benchmarks.clipart.runs import Compute, Place, Plan, Run, compute_flops, hold_plan, list_runs, read_plan
from hornet.errors import UserError
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.model.cost import count_training_flops

COMPUTE = Compute(fine=4, coarse=9, scratch_steps=1067)
NUM_IMAGES = 200


@pytest.fixture
def place(tmp_path):
    """Manifests of sets, as far as the runner reads them."""
    for kind, classes in (("fine", 12), ("coarse", 4), ("scenes", 3)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        content = {
            "label_space": {"classes": [f"class_{number}" for number in range(classes)]},
            "splits": {"train": {"num_samples": 700}},
        }
        (tmp_path / "data" / kind / "_info.json").write_text(json.dumps(content))
    return Place(data=tmp_path / "data", runs=tmp_path / "runs")


def put(place, name, *, hits=None, **evaluation):
    folder = place.runs / name
    folder.mkdir(parents=True)
    if hits is not None:
        (folder / "per_image").mkdir()
        np.savez(folder / "per_image" / "step_00000007_raw.npz", key_hash=np.arange(len(hits)), hit=hits)
        evaluation |= {"top1": 100 * float(hits.mean()), "loss": 1.5, "num_images": len(hits)}
    summary = {"evaluations": [{"top1": 0.0, "miou": 0.0}, evaluation], "seconds": 61.4}
    summary |= {"num_parameters": 1_750_000, "training_flops": 6_000_000_000, "images_seen": 10}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def finished(place):
    """All runs of two seeds but one; scratch is right on 100 + seed images, bilinear on 20, spectral on 10 more."""
    numbers = np.arange(NUM_IMAGES)
    for seed in (0, 1):
        put(place, f"pretrain-{seed}", hits=numbers < 50)
        for arm, more in (("scratch", 0), ("finetune-bilinear", 20), ("finetune-spectral", 10)):
            if (arm, seed) != ("finetune-spectral", 1):
                put(place, f"{arm}-{seed}", hits=numbers < 100 + seed + more)
        for backbone, of_backbone in (("pretrained", 8.0), ("random", 0.0)):
            for pyramid, of_pyramid in (("fpn", 0.0), ("horfpn_gf", 2.0)):
                values = {"miou": 30 + seed + of_backbone + of_pyramid, "macc": 40.0, "aacc": 90.0}
                put(place, f"dense-{backbone}-{pyramid}-{seed}", **values)
        for resize, more in (("bilinear", 0), ("spectral", 1)):
            folder = place.runs / f"evaluate-{resize}-{seed}"
            folder.mkdir()
            rows = [
                {"image_size": size, "top1": size / 4 + more, "loss": 2.5 + seed - more / 8}
                for size in (64, 80, 96, 128)
            ]
            (folder / "evaluation.json").write_text(json.dumps({"results": rows}))
    return read_results(Plan(seeds=(0, 1)), COMPUTE, place.runs)


def test_differences_are_those_that_were_made(finished):
    (bilinear, scratch), (spectral, _), (resize, _) = [
        (interval, error) for _, interval, error in compare_classifiers(finished)
    ]
    assert (bilinear.mean, bilinear.half_width, bilinear.num_values) == (10.0, 0.0, 2)
    assert (spectral.mean, spectral.num_values, resize.mean) == pytest.approx((5, 1, -5))
    # 20 of 200 images differ by 1, of which the first and the last by a half in the mean over seeds.
    difference = np.zeros(NUM_IMAGES)
    difference[100:121] = 1
    difference[[100, 120]] = 0.5
    assert scratch == pytest.approx(100 * difference.std(ddof=1) / NUM_IMAGES**0.5)
    assert [interval.mean for _, interval in compare_segmenters(finished)] == pytest.approx([8, 8, 8, 2, 2, 2])


def test_no_pairs_have_no_error():
    assert find_image_error({0: np.ones(3, bool)}, {1: np.ones(3, bool)}) is None


def test_tables_show_counts_and_what_is_missing(finished):
    text = format_tables(finished)
    assert text.startswith("Not finished, and in no table: finetune-spectral-1.")
    assert "| from scratch, 96 pixels | 1 | 50.50 | 101 of 200 | 1.5000 | 61 |" in text
    assert "| finetune-bilinear - scratch | +10.00 (+10.00 to +10.00) | 2 |" in text
    assert "| random start | HorFPN GF | 1 | 33.00 | 40.00 | 90.00 | 1.750 | 0.600 | 61 |" in text
    assert "| 96 | 24.00 (3.0000) | 25.00 (2.8750) | +1.00 (+1.00 to +1.00) |" in text
    assert "| scratch | 1067 | 68288 | 6.14592e+05 |" in text
    assert "(scratch: 100.031 % of it)" in text


def test_nothing_finished_is_a_report_too(place):
    results = read_results(Plan(seeds=(0,)), COMPUTE, place.runs)
    assert len(results.missing) == 10
    assert "| finetune-bilinear - scratch | - | 0 | - |" in format_tables(results)
    render_figure(results, place.data / "figure.png")


def test_the_report_is_written(finished, tmp_path):
    write_report(finished, tmp_path / "out", sets={"images": {"train": 700}})
    render_figure(finished, tmp_path / "out" / "figure.png")
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["differences_top1"][0]["interval"]["mean"] == 10.0
    assert found["missing"] == ["finetune-spectral-1"]
    assert (tmp_path / "out/tables.md").read_text() == format_tables(finished)
    assert (tmp_path / "out/figure.png").stat().st_size > 10_000


def test_runs_stand_in_the_order_of_what_they_tell(place):
    runs = list_runs(Plan(), COMPUTE, place, num_workers=3)
    names = [run.name for run in runs]
    assert len(names) == len(set(names)) == 30
    assert names[:4] == ["pretrain-0", "pretrain-1", "pretrain-2", "finetune-bilinear-0"]
    for number, run in enumerate(runs):
        assert set(run.needs) <= set(names[:number]), "none before what it needs"
        assert ("data.num_workers=3" in run.words) == (not run.name.startswith("evaluate"))
    by_name = {run.name: run for run in runs}
    assert f"start.from={place.runs / 'pretrain-2'}" in by_name["dense-pretrained-fpn-2"].words
    assert not any(word.startswith("start.from") for word in by_name["dense-random-fpn-2"].words)
    # 700 images are 10 steps of 64: what is written as epochs is that many steps again.
    (num_epochs,) = [word.partition("=")[2] for word in by_name["scratch-0"].words if "num_epochs" in word]
    assert round(float(num_epochs) * 10) == 1067


def test_scratch_costs_what_both_stages_cost(place):
    plan = Plan(model="hornet_zepto_gf")
    compute = compute_flops(plan, place)
    flops = compute.count(plan)
    assert flops["scratch"] == pytest.approx(flops["pretrain"] + flops["finetune"], rel=1e-3)
    network = build_model(ModelConfig(name=plan.model), num_classes=12, image_size=64, seed=0)
    assert flops["pretrain"] == 1500 * 64 * count_training_flops(network, 64)


def test_another_plan_is_refused(place):
    plan = Plan(model="hornet_zepto_gf")
    compute = hold_plan(plan, place)
    assert hold_plan(plan, place) == compute
    assert read_plan(place.runs) == (plan, compute)
    with pytest.raises(
        UserError, match=r"holds runs of another plan \(dense_steps 800, not 7\); choose another --runs"
    ):
        hold_plan(Plan(model="hornet_zepto_gf", dense_steps=7), place)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seeds": ()}, "seeds: name at least one, and none twice"),
        ({"seeds": (1, 1)}, "none twice, not \\[1, 1\\]"),
        ({"dense_steps": 0}, "dense_steps: must be at least 1, not 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(values, sentence):
    with pytest.raises(UserError, match=sentence):
        Plan(**values)


def test_no_sets_no_plan(tmp_path):
    with pytest.raises(UserError, match=r"holds no set; make it with `python -m benchmarks\.clipart sets`"):
        compute_flops(Plan(), Place(data=tmp_path, runs=tmp_path))
    with pytest.raises(UserError, match=r"holds no runs; make them with `python -m benchmarks\.clipart run`"):
        read_plan(tmp_path)


def make_run(folder, name, code, *, needs=()):
    """A process that runs `code`, which knows the file it is to make as MADE."""
    made = folder / name
    words = ("-c", f"import pathlib, sys; MADE = pathlib.Path({str(made)!r}); {code}")
    return Run(name=name, words=words, made=made, needs=needs)


def run_pool(folder, runs, *, ask_to_stop=lambda: None):
    pool = Pool(logs=folder / "logs", num_slots=2, settings={"OMP_NUM_THREADS": "1"}, ask_to_stop=ask_to_stop)
    return pool, pool.run(runs)


def test_the_pool_waits_retries_and_gives_up(tmp_path):
    twice = f"first = pathlib.Path({str(tmp_path / 'first')!r}); seen = first.exists(); first.touch(); "
    runs = [
        make_run(tmp_path, "a", "MADE.touch()"),
        make_run(
            tmp_path,
            "after_a",
            f"MADE.touch() if pathlib.Path({str(tmp_path / 'a')!r}).exists() else 1 / 0",
            needs=("a",),
        ),
        make_run(tmp_path, "second_try", twice + "MADE.touch() if seen else sys.exit(1)"),
        make_run(tmp_path, "refused", "print('error: no such key'); sys.exit(2)"),
        make_run(tmp_path, "orphan", "MADE.touch()", needs=("refused",)),
    ]
    pool, asked = run_pool(tmp_path, runs)
    assert asked is None
    assert pool.failed == {"refused": "exit code 2: error: no such key", "orphan": "refused failed"}
    assert sorted(run.name for run in runs if run.made.exists()) == ["a", "after_a", "second_try"]
    (tmp_path / "a").write_text("not made again")
    run_pool(tmp_path, runs[:2])
    assert (tmp_path / "a").read_text() == "not made again"


def test_a_stop_reaches_the_runs(tmp_path):
    wait = "import signal, time; signal.signal(15, lambda *_: (MADE.touch(), sys.exit(0))); "
    runs = [make_run(tmp_path, "long", wait + f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)")]
    ready = tmp_path / "ready"
    _, asked = run_pool(tmp_path, runs, ask_to_stop=lambda: "SIGTERM" if ready.exists() else None)
    assert asked == "SIGTERM"
    assert runs[0].made.exists()
