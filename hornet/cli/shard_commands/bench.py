"""`bench`: how fast a set streams here, and how many cores feed a GPU."""

import argparse
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.shard_commands.parsing import Commands
from hornet.shards.indexing.tar_list import is_tar_list
from hornet.shards.manifest import read_manifest
from hornet.shards.processes import count_cores

DEFAULT_RATE = 1000.0


def bench(options: argparse.Namespace) -> None:
    """Stream a set with some numbers of workers, and say what was seen."""
    if not is_tar_list(options.folder):
        read_manifest(options.folder).split(options.split)  # refuses what is no set before what follows is imported
    # These bring torch: seconds that the other commands need not wait for.
    import torch

    from hornet.data.config import StreamConfig, TransformConfig
    from hornet.data.speed import describe_speed, measure_speed

    torch.set_num_threads(1)  # as in a worker
    num_cores = count_cores()
    transform = TransformConfig(
        image_size=options.image_size,
        flip_probability=0.5,
        rand_augment=options.rand_augment or None,
        erase_probability=0.25,
        backend=options.backend,
    )
    report = measure_speed(
        StreamConfig(shards=options.folder, split=options.split, transform=transform),
        batch_size=options.batch_size,
        seconds=options.seconds,
        worker_counts=options.workers or sorted({1, max(1, num_cores // 2), num_cores}),
    )
    print_to_pipe(describe_speed(report, images_per_second=options.rate, num_gpus=options.gpus, num_cores=num_cores))


def add_bench(commands: Commands) -> None:
    """Add `bench` and its options to the commands."""
    command = commands.add_parser(
        "bench",
        help="images a second that a set gives on this machine, and the cores a GPU needs",
        description="Stream a set as training does, augmentation included, and say what it takes to feed a GPU.",
    )
    command.add_argument("folder", type=Path, metavar="SET", help="folder of the set")
    command.add_argument("--split", default="train", help="default train")
    command.add_argument("--workers", type=int, nargs="+", metavar="N", help="to try (default: 1, half, all the cores)")
    command.add_argument("--seconds", type=float, default=10.0, metavar="S", help="for each (default 10)")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images of a batch (default 64)")
    command.add_argument("--image-size", type=int, default=224, metavar="PX", help="default 224")
    command.add_argument(
        "--rand-augment", default="rand-m9-mstd0.5-inc1", metavar="TEXT", help='of the recipe; "" for none'
    )
    command.add_argument("--backend", choices=["fast", "pil"], default="fast", help="of the transform (default fast)")
    command.add_argument(
        "--rate", type=float, default=DEFAULT_RATE, metavar="N", help="images a second that a GPU trains on (1000)"
    )
    command.add_argument("--gpus", type=int, default=1, metavar="N", help="of one machine (default 1)")
    command.set_defaults(run=bench)
