"""Finetune pretrained weights under Accelerate, usually at a higher resolution. The same command resumes a run."""

from hornet.signals import catch_signals, ignore_signals


def main() -> None:
    """Read the command line, then hand over to the stage."""
    catch_signals()  # before the imports below: what comes while they last must neither kill nor be lost
    from finetune.config import FinetuneConfig
    from hornet.cli.checks import TRAINING
    from hornet.cli.command_line import exit_on_bad_input, read_command_line
    from hornet.world import read_world

    config = read_command_line(
        FinetuneConfig,
        stage="finetune",
        description=__doc__ or "",
        checks=TRAINING,
        example="accelerate launch launch/finetune.py --config configs/finetune/hornet_large_gf_in1k_384.yaml "
        "start.from=runs/large",
    )
    from finetune.stage import finetune  # imports accelerate, which a wrong config need not wait for

    try:
        exit_on_bad_input(lambda: finetune(config, world=read_world()))
    finally:
        ignore_signals()  # a late one would turn the exit code into its own


if __name__ == "__main__":
    main()
