"""Train a segmenter (UPerNet) or a detector with masks on a pretrained HorNet, under Accelerate.

The config's `task` says which. The same command resumes a run.
"""

from hornet.signals import catch_signals, ignore_signals


def main() -> None:
    """Read the command line, then hand over to the stage."""
    catch_signals()  # before the imports below: what comes while they last must neither kill nor be lost
    from dense.config import TASKS
    from hornet.cli.checks import TRAINING
    from hornet.cli.command_line import exit_on_bad_input, read_command_line
    from hornet.world import read_world

    config = read_command_line(
        TASKS,
        stage="dense",
        description=__doc__ or "",
        checks=TRAINING,
        example="accelerate launch launch/dense.py --config configs/dense/upernet_hornet_tiny_gf_ade20k.yaml "
        "start.from=runs/tiny",
    )
    from dense.stage import train_dense  # imports accelerate, which a wrong config need not wait for

    try:
        exit_on_bad_input(lambda: train_dense(config, world=read_world()))
    finally:
        ignore_signals()  # a late one would turn the exit code into its own


if __name__ == "__main__":
    main()
