"""The whole job on small real data: digits -> shards -> ZeRO pretraining on 2 ranks, killed once and resumed ->
finetuning at a higher resolution -> evaluation. A few minutes on 2 CPU cores; results in data/demo/ and runs/demo/ of
the folder it is started in. What is there already stays: a whole set is taken, a run goes on where it stopped.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.demo_processes import BIN, catch_signals, kill, list_family, start
from hornet.durable import read_json_lines
from hornet.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
DATA = Path("data/demo")
RUNS = Path("runs/demo")
SPLITS = ("train", "validation")
KILL_AFTER_STEP = 50
NUM_RANKS = 2
# Not `accelerate launch`: on CPUs it starts one process, whatever number it is asked for.
ON_TWO_CPUS = (BIN / "torchrun", "--standalone", "--nproc_per_node", NUM_RANKS)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    """Run every stage, each with the command a user would give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="store_true", help="only the digits' shards, in data/demo/, unless they are there; for a study"
    )
    parser.add_argument(
        "--dense", action="store_true", help="a segmenter and a detector instead; results in runs/demo-dense/"
    )
    options = parser.parse_args()
    if not LAUNCH.exists():
        print("error: the demo starts the files of launch/, so it runs in a checkout", file=sys.stderr)
        sys.exit(2)
    catch_signals()
    if options.dense:
        from hornet.cli.demo_dense import show_dense_tasks

        show_dense_tasks()
        return
    started = time.monotonic()
    make_shards()
    if options.data:
        return
    pretraining = [
        BIN / "deepspeed",
        "--num_gpus",
        NUM_RANKS,
        LAUNCH / "pretrain.py",
        "--config",
        "configs/demo/pretrain.yaml",
    ]
    call_and_kill("pretraining, to be killed", pretraining, RUNS / "pretrain", after_step=KILL_AFTER_STEP)
    call("pretraining, the same command again", pretraining)
    require_ranks(RUNS / "pretrain")
    finetuning = [*ON_TWO_CPUS, LAUNCH / "finetune.py", "--config", "configs/demo/finetune.yaml"]
    call("finetuning at 64 pixels", finetuning)
    require_ranks(RUNS / "finetune")
    call("evaluation", python("evaluate.py", RUNS / "finetune", "weights=ema"))
    render_curves(RUNS / "curves.png")
    print_ending(seconds=time.monotonic() - started)


def make_shards() -> None:
    """Write the digits as images, and shards of them, unless these are there."""
    missing = [split for split in SPLITS if not is_whole(DATA / "shards", split)]
    if missing:
        write_images(DATA / "images")
    for split in missing:
        call(
            "shards: " + split,
            python(
                "shards.py",
                "build",
                DATA / "images" / split,
                DATA / "shards",
                "--split",
                split,
                "--name",
                "digits",
                "--samples-per-shard",
                "200",
            ),
        )
        require_whole(DATA / "shards", split)


def is_whole(folder: Path, split: str) -> bool:
    """Whether a split's index, labels and tars are there as its manifest says; tell it then."""
    from hornet.shards.shard_set import open_shards

    try:
        num_samples = open_shards(folder, split).num_samples
    except UserError:
        return False
    print_to_pipe(f"demo: {folder}: {split} is there, {num_samples} samples")
    return True


def require_whole(folder: Path, split: str) -> None:
    """End the demo if what was just built, or was found built, is not whole: an earlier one may have been damaged."""
    from hornet.shards.shard_set import open_shards

    try:
        open_shards(folder, split)
    except UserError as error:
        sys.exit(f"demo: {error}; or remove {folder}, and the demo makes it again")


def write_images(folder: Path) -> None:
    """Write scikit-learn's 1,797 digits as class folders of PNG and JPEG files; every fifth is validation."""
    import numpy as np  # with scikit-learn seconds that --help need not wait for
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    counts = dict.fromkeys(range(10), 0)
    for pixels, label in zip(digits.images, digits.target.tolist(), strict=True):
        number = counts[label]
        counts[label] += 1
        split = "validation" if number % 5 == 4 else "train"
        target = folder / split / NAMES[label]
        target.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)
        suffix = "png" if number % 2 else "jpg"
        image.convert("RGB").save(target / f"{NAMES[label]}_{number:03d}.{suffix}")


def python(script: str, *arguments: object) -> list[object]:
    """Return the command that runs one of our scripts in this environment."""
    return [sys.executable, LAUNCH / script, *arguments]


def call(title: str, command: list[object]) -> None:
    """Run a command to its end; end the demo if it fails."""
    with start(title, command) as process:
        code = process.wait()
    if code != 0:
        sys.exit(
            f"demo: {title} failed with exit code {code}; nothing was removed. The same command goes on from what is "
            "there; to begin anew, remove what is in its way in data/ and runs/, or start the demo in another folder"
        )


def call_and_kill(title: str, command: list[object], run: Path, *, after_step: int) -> None:
    """Run a training command and SIGKILL all of its processes once it has logged a step after its first checkpoint."""
    if (step := read_last_step(run)) >= after_step:
        print_to_pipe(f"\ndemo: {run} is at step {step} already and is not killed again; remove it to see that")
        return
    with start(title, command) as process:
        while read_last_step(run) < after_step:
            if process.poll() is not None:
                sys.exit(f"demo: {title} ended by itself with exit code {process.returncode}")
            time.sleep(0.1)
        kill(list_family(process))
        process.wait()
    print_to_pipe(f"demo: SIGKILL to all ranks after step {read_last_step(run)}")


def require_ranks(run: Path) -> None:
    """End the demo unless the run itself reports as many ranks as were asked for."""
    num_ranks = json.loads((run / "environment.json").read_text())["world"]["num_ranks"]
    if num_ranks != NUM_RANKS:
        sys.exit(f"demo: {run} ran on {num_ranks} ranks, not on {NUM_RANKS}")


def read_last_step(run: Path) -> int:
    """Return the last step in a run's metrics, 0 before there is one."""
    rows = read_json_lines(run / "metrics.jsonl")
    return int(rows[-1]["step"]) if rows else 0


def render_curves(path: Path) -> None:
    """Render loss and accuracy of both runs over their steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5), constrained_layout=True)
    for run in ("pretrain", "finetune"):
        rows = read_json_lines(RUNS / run / "metrics.jsonl")
        left.plot([row["step"] for row in rows], [row["loss"] for row in rows], label=run)
        for weights, style in (("raw", "-"), ("ema", "--")):
            rows = [row for row in read_json_lines(RUNS / run / "evaluations.jsonl") if row["weights"] == weights]
            if rows:
                steps, top1 = [row["step"] for row in rows], [row["top1"] for row in rows]
                right.plot(steps, top1, style, marker="o", markersize=3, label=f"{run}, {weights} weights")
    left.axvline(KILL_AFTER_STEP, color="grey", linestyle=":", label="SIGKILL, resumed")
    left.set(xlabel="step", ylabel="training loss", title="Training loss")
    right.set(xlabel="step", ylabel="top-1, %", title="Held-out digits")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def print_ending(*, seconds: float) -> None:
    """Say what came out and where to look."""
    summary = json.loads((RUNS / "finetune" / "summary.json").read_text())
    best = max(summary["evaluations"], key=lambda row: row["top1"])
    print_to_pipe(f"""
=== done in {seconds:.0f} s: {best["top1"]:.2f} % top-1 on {best["num_images"]} held-out digits
  runs/demo/curves.png             loss and accuracy of both runs
  runs/demo/pretrain/              metrics.jsonl, evaluations.jsonl, checkpoints/, summary.json; killed once and resumed
  runs/demo/finetune/              the same, at a higher resolution
  data/demo/shards/                the digits as WebDataset tars with their index and manifest
  {find_tensorboard()} --logdir runs/demo     curves, augmented images, learned global filters""")


def find_tensorboard() -> str:
    """Return TensorBoard's command, as seen from here."""
    return f"{BIN}/tensorboard".removeprefix(f"{Path.cwd()}/")


if __name__ == "__main__":
    main()
