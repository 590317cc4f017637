"""Pretrain from shards under DeepSpeed ZeRO. The same command resumes a stopped run."""

from hornet.signals import catch_signals, ignore_signals


def main() -> None:
    """Read the command line, then hand over to the stage."""
    catch_signals()  # before the imports below: what comes while they last must neither kill nor be lost
    from hornet.cli.checks import TRAINING
    from hornet.cli.command_line import exit_on_bad_input, read_command_line
    from hornet.world import read_world
    from pretrain.config import PretrainConfig

    config = read_command_line(
        PretrainConfig,
        stage="pretrain",
        description=__doc__ or "",
        checks=TRAINING,
        example="deepspeed launch/pretrain.py --config configs/pretrain/hornet_large_gf_in22k.yaml run.name=large",
    )
    from pretrain.stage import pretrain  # imports deepspeed, which a wrong config need not wait for

    try:
        exit_on_bad_input(lambda: pretrain(config, world=read_world()))
    finally:
        ignore_signals()  # a late one would turn the exit code into its own


if __name__ == "__main__":
    main()
