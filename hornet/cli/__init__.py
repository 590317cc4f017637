"""What is typed: `hornet COMMAND ...`, one module a command. Each reads its words and calls what does the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

BAD_INPUT = 2


class Command(NamedTuple):
    """A command, imported only when it is called."""

    module: str
    extra: str
    """What of pyproject.toml's optional dependencies it needs."""
    summary: str


COMMANDS = {
    "shards": Command("shards", "shards", "make, index, check and describe sets of shards"),
    "plan": Command("plan", "train", "memory, time, cost and jobs of a run, from its config alone"),
    "pretrain": Command("pretrain", "train", "pretrain from shards under DeepSpeed ZeRO"),
    "finetune": Command("finetune", "train", "finetune pretrained weights under Accelerate"),
    "dense": Command("dense", "train", "train a segmenter or detector on a pretrained backbone under Accelerate"),
    "evaluate": Command("evaluate", "train", "top-1, top-5 and loss of a run, a checkpoint or a weight file"),
    "average": Command("average", "train", "weights made of finished runs: means, soups, points between start and end"),
    "export": Command("export", "train", "weights for timm's hub, as the original's file, as ONNX"),
    "report": Command("report", "train", "a run on one HTML page"),
    "verify-resume": Command("verify_resume", "train", "is a killed and resumed run the undisturbed one? tried here"),
    "scaling": Command("scaling", "scaling", "a study of many runs: plan, run, fit, report"),
    "configs": Command("configs", "shards", "list the configs that come with the package"),
    "demo": Command("demo", "dev", "the whole job on small data, in a few minutes; in data/demo and runs/demo"),
    "openclipart": Command("openclipart", "shards", "a small realistic data set without ImageNet"),
    "scenes": Command("scenes", "dev", "scenes with exact masks, to segment without a download"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names; `sys.argv` without `arguments`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print_to_pipe(_describe())
        sys.exit(0 if words else BAD_INPUT)
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
        print(f"error: {words[0]}: no such command; {hint}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.argv = [f"hornet {name}", *words[1:]]
    run(name)


def run(name: str) -> None:
    """Run a command on what `sys.argv` holds behind its first word; a library that is missing is told in a sentence."""
    command = COMMANDS[name]
    try:
        import_module(f"hornet.cli.{command.module}").main()
    except ModuleNotFoundError as error:
        from hornet.cli.missing import explain_missing

        sentence = explain_missing(error.name or "", command=name, extra=command.extra)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def print_to_pipe(text: str) -> None:
    """Print text that may go to a program such as `head`, which leaves before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end


def _describe() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hornet COMMAND ...",
            "",
            "Pretrain HorNet vision backbones. `hornet COMMAND --help` tells each command's options and keys.",
            "",
            *rows,
            "",
            "On several GPUs a launcher starts the ranks, of a checkout's file or of the installed package:",
            "  deepspeed launch/pretrain.py --config FILE        deepspeed --module hornet.cli.pretrain --config FILE",
            "  torchrun --nproc_per_node 8 -m hornet.cli.pretrain --config FILE",
            "  accelerate launch -m hornet.cli.finetune --config FILE start.from=RUN",
        ]
    )
