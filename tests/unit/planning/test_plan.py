"""A whole plan of the demo's run, and of what is wrong with it; the command is called in this process, to be quick."""

import json
import sys
from pathlib import Path

import pytest

import hornet.planning.network
from hornet.cli.plan import main
from hornet.planning.activations import Activations

ROOT = Path(__file__).resolve().parents[3]
DEMO = "configs/demo/pretrain.yaml"
LARGE = "configs/pretrain/hornet_large_gf_in22k.yaml"
FINETUNE = "configs/finetune/hornet_large_gf_in1k_384.yaml"
ACTIVATIONS = Activations(fixed=2**30, per_image=2**28)
SET = ("--samples", "1442", "--classes", "10")


# By hand at 48 pixels: maps of 12, 6, 3 and 1 a side, the stem, three downsamplings, blocks of 8 C^2 + 49 C, the head.
WIDTHS, DEPTHS, POSITIONS = (40, 80, 160, 320), (2, 2, 6, 2), (144, 36, 9, 1)
CONVNEXT_ATTO = (
    144 * 48 * 40
    + sum(4 * POSITIONS[i] * WIDTHS[i - 1] * WIDTHS[i] for i in (1, 2, 3))
    + sum(n * at * (8 * c**2 + 49 * c) for n, at, c in zip(DEPTHS, POSITIONS, WIDTHS, strict=True))
    + 320 * 10
)


@pytest.fixture
def plan(monkeypatch, capsys):
    """Run the command; return exit code, output and errors."""

    def run(config, *arguments, activations=ACTIVATIONS):
        if activations is not None:  # measured in test_activations.py, in seconds
            monkeypatch.setattr(hornet.planning.network, "measure_activations", lambda *_, **__: activations)
        monkeypatch.setattr(sys, "argv", ["plan.py", "--config", str(ROOT / config), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.mark.slow
def test_the_demo_is_planned_with_nothing_made_up(plan):
    code, out, err = plan(DEMO, *SET, "--gpus", 2, "--mfu", 0.1, "--what-if", "1,3,64", "--json", activations=None)
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert values["basis"]["num_steps"] == 12 * (1442 // 64)
    assert values["num_images"] == values["basis"]["num_steps"] * 64
    assert values["basis"]["network"]["activations"]["per_image"] > 0
    fleet = values["fleet"]
    assert (fleet["num_nodes"], fleet["micro_batch_size"], fleet["num_micro_steps"]) == (1, 32, 1)
    assert fleet["duration"]["gpu_hours"] == pytest.approx(2 * fleet["duration"]["hours"])
    assert [row["is_planned"] for row in fleet["memory"]] == [False, False, True, False]
    one, three, many = values["what_if"]
    assert one["fleet"]["num_micro_steps"] == 2
    assert one["fleet"]["sent_bytes"] == 0
    assert three["fleet"] is None
    assert "cannot be divided over 3 ranks" in three["problem"]
    assert many["fleet"]["micro_batch_size"] == 1, "one image is left for each"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("convnext_atto", CONVNEXT_ATTO / 1e9),
        # 12 blocks of 10 tokens of width 192: 12 matrices' worth of C x C and two products; 9 patches; the head.
        ("vit_tiny_patch16_224", (12 * (12 * 10 * 192**2 + 2 * 10**2 * 192) + 9 * 768 * 192 + 1920) / 1e9),
    ],
)
def test_another_network_is_planned_and_its_small_numbers_are_not_nothing(plan, name, giga):
    code, out, err = plan(DEMO, *SET, f"model.name={name}", "--gpus", 2, "--mfu", 0.1)
    assert (code, err) == (0, "")
    (line,) = (line for line in out.splitlines() if line.startswith("network "))
    assert f"{name} at 48 pixels, 10 classes" in line
    assert float(line.partition(" parameters, ")[2].split()[0]) == pytest.approx(giga, rel=0.01)
    assert "0.0169 M images" in out


def test_the_largest_run_is_told_to_people(plan):
    code, out, err = plan(LARGE, "--gpus", 64, "--time-limit", "2:00:00", "--price", 2, "--what-if", "32,48,512")
    assert (code, err) == (0, "")
    for part in (
        "64 x h100-80 (80 GiB, 989 TFLOP/s dense bf16, 700 W), 8 nodes",
        "228.3 M parameters",
        "14,197,122 images, 1,420 GB (data/imagenet-22k is not here: assumed to be the known imagenet-22k",
        "90 epochs, 311,940 steps of 4,096",
        "2 micro steps of 32 images on each GPU, bf16",
        "* zero.stage=1",
        "MFU 10 %, ",
        "(assumed, not measured)",
        "3.65 GB, 4 s to write (at 1 GB/s), 3 kept, 14.6 GB on disk at most",
        " of 2 h; signal 300 s before the limit, needed are ",
        "cannot be divided over 48 ranks",
        "recipe in22k_large_gf: 3 departures",
    ):
        assert part in out, part


def test_finetuning_is_data_parallel(plan):
    code, out, _ = plan(FINETUNE, "--gpus", 32)
    assert code == 0
    assert "* data parallel" in out
    assert "zero.stage" not in out.partition("recipe")[0]


def test_auto_is_as_much_as_fits(plan):
    _, out, _ = plan(LARGE, "micro_batch_size=auto", "--gpus", 8, "--gpu", "a100-40", "--json")
    values = json.loads(out)["fleet"]
    state = next(row["state"] for row in values["memory"] if row["is_planned"])
    room = 0.93 * 40 * 2**30 - sum(state.values()) - 2**30
    assert values["micro_batch_size"] == 128, "of 512"
    assert values["micro_batch_size"] * 2**28 <= room < 2 * values["micro_batch_size"] * 2**28


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", 63], "global_batch_size 4096 cannot be divided over 63 ranks; world sizes that divide it: 1, 2,"),
        (["--gpus", 8, "micro_batch_size=512"], "error: micro_batch_size: 512 with zero.stage=1 takes "),
        (
            ["--gpus", 8, "--gpu", "v100-32", "--from-run", "nowhere"],
            "--from-run: nowhere does not exist; give the directory",
        ),
        (
            ["--gpus", 64, "--time-limit", "1:00:00", "--signal-lead", 10],
            "signal lead: 10 s are too short for two of the longest",
        ),
        (["--gpus", 64, "recipe.clipping=paper"], "recipe.clipping: paper clips between two of the 2 micro steps"),
        (["--gpus", 64, "--samples", 4000], "global_batch_size 4096 is more than the split's 4000 samples"),
        (
            ["--gpus", 64, "--samples", 4000, "--classes", 9, "micro_batch_size=48"],
            "not a multiple of micro_batch_size",
        ),
    ],
)
def test_what_cannot_work_ends_with_1_and_says_why(plan, arguments, message):
    code, _, err = plan(LARGE, *arguments)
    assert code == 1
    assert message in err


def test_a_number_of_gpus_on_which_it_does_not_fit_is_marked(plan):
    _, out, _ = plan(LARGE, "--gpus", 8, "micro_batch_size=512", "--what-if", "8,64")
    large, shrunk = out.partition("what if")[2].splitlines()[2:4]
    assert large.endswith("does not fit")
    assert "1 x 64" in shrunk
    assert "not" not in shrunk


def test_bf16_needs_a_gpu_that_has_it(plan, tmp_path):
    for name, text in (
        ("metrics.jsonl", '{"images_per_second": 8, "mfu": null}\n' * 2),
        ("environment.json", '{"world": {"num_ranks": 2}}'),
        ("config.yaml", "model: {name: hornet_large_gf}\ndata: {transform: {image_size: 224}}\n"),
    ):
        (tmp_path / name).write_text(text)
    code, out, err = plan(LARGE, "--gpus", 64, "--gpu", "v100-32", "--from-run", tmp_path)
    assert code == 1
    assert "4 images/s a GPU (measured" in out
    assert "precision: bf16 needs a GPU that computes it, which v100-32 does not; set it to fp32" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h1000"], "error: gpu: 'h1000' is none that is known; did you mean h100-80"),
        (["zero.stag=1"], "zero.stag: unknown key; did you mean zero.stage?"),
        (["zero", "--gpus", 8], "an override is written key=value"),
        (["--time-limit", "soon"], "argument --time-limit: 'soon' is not a time as SLURM has it"),
        (["--gpus", 0], "argument --gpus: must be above 0, not 0"),
        (["--mfu", 2], "error: mfu: is a share, above 0 and at most 1, not 2"),
        (["--gpus", 64, "data.shards=data/mine"], "error: data.shards: data/mine is not here"),
    ],
)
def test_bad_input_ends_with_2(plan, arguments, message):
    code, out, err = plan(LARGE, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("text", "hours"),
    [("90", 1.5), ("30:00", 0.5), ("12:30:00", 12.5), ("2-00", 48), ("1-06:30", 30.5), ("1-00:00:36", 24.01)],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(plan, text, hours):
    _, out, _ = plan(LARGE, "--gpus", 64, "--time-limit", text, "--json")
    assert json.loads(out)["basis"]["question"]["time_limit_hours"] == pytest.approx(hours)


def test_no_limit_is_no_limit(plan):
    _, out, _ = plan(LARGE, "--gpus", 64, "--time-limit", "UNLIMITED", "--json")
    assert json.loads(out)["attempts"] is None


def test_a_study_is_planned_by_another_command(plan):
    code, _, err = plan("configs/scaling/demo.yaml")
    assert code == 2
    assert "1 problem\nis a study of many runs; plan it by `python launch/scaling.py plan --config " in err


def test_a_file_that_is_no_run_is_refused(plan, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("model: {name: hornet_tiny_gf}\n")
    code, _, err = plan(path)
    assert code == 2
    assert "is neither a pretraining config (zero) nor a finetuning config (start)" in err


def test_a_dense_config_is_refused_whatever_it_starts_from(plan):
    code, _, err = plan(ROOT / "configs/demo/segmentation.yaml", "start.from=runs/x")
    assert code == 2
    assert "is for launch/dense.py; plan one of pretraining (zero) or finetuning (start)" in err
