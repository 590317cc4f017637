"""Finetune pretrained weights under Accelerate, usually at a higher resolution. The same command resumes a run."""

import sys
from pathlib import Path

# Run as a script, Python puts launch/ first on the path, where `import finetune` would find this very file.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from hornet.signals import catch_signals, ignore_signals

catch_signals()  # before the imports below: what comes while they last must neither kill nor be lost

from finetune.config import FinetuneConfig
from hornet.command_line import exit_on_bad_input, read_command_line
from hornet.world import read_world


def main() -> None:
    """Read the command line, then hand over to the stage."""
    config = read_command_line(
        FinetuneConfig,
        description=__doc__ or "",
        example="accelerate launch launch/finetune.py --config configs/finetune/hornet_large_gf_in1k_384.yaml "
        "start.from=runs/large",
    )
    from finetune.stage import (
        finetune,
    )  # imports torch.distributed and accelerate, which a wrong config need not wait for

    try:
        exit_on_bad_input(lambda: finetune(config, world=read_world()))
    finally:
        ignore_signals()  # a late one would turn the exit code into its own


if __name__ == "__main__":
    main()
