"""The engine, the stream and the checkpoints on hundreds of ranks: figures of docs/scale.md.

python -m benchmarks.scale communication   # formulas: seconds
python -m benchmarks.scale sums            # small sums and bf16 sums on this machine: a minute
python -m benchmarks.scale stream          # an epoch of ImageNet-22K on 512 ranks x 8 workers: 10 minutes
python -m benchmarks.scale checkpoints     # the real engine on 4 CPU ranks: 6 minutes
python -m benchmarks.scale startup         # one rank's pieces: a minute
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import timm
import torch

import hornet  # noqa: F401  registers the models
from hornet.hardware import find_peak_flops
from hornet.model.cost import count_training_flops
from hornet.model.hornet import HorNet
from hornet.training.engines.communication import Network, count_sent_bytes, estimate_seconds, list_traffic
from hornet.training.engines.zero_config import ZeroConfig

MODEL, NUM_CLASSES, IMAGE_SIZE, GLOBAL_BATCH_SIZE = "hornet_large_gf", 21_841, 224, 4096
RANKS = (8, 64, 512)
GPU, UTILISATION = "NVIDIA H100", 0.3
"""Assumed: the share of the dense bf16 rate that a step's computation reaches."""
NETWORKS = {
    "8 x 400 Gb/s a node": Network(ranks_per_node=8, node_bytes_per_second=400e9, gpu_bytes_per_second=360e9),
    "1 x 100 Gb/s a node": Network(ranks_per_node=8, node_bytes_per_second=12.5e9, gpu_bytes_per_second=360e9),
}
"""GPUs in a node: NVLink of 450 GB/s in each direction, of which 80 % are assumed to be reached."""


def main() -> None:
    """Print one part's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("communication", "sums", "stream", "checkpoints", "startup"))
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's)")
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.what == "communication":
            show_communication()
        elif options.what == "sums":
            from benchmarks.scale_sums import measure_rounding, measure_sums

            measure_sums()
            measure_rounding()
        elif options.what == "stream":
            from benchmarks.scale_stream import measure_stream

            measure_stream(num_samples=14_197_122, num_ranks=512, num_workers=8, global_batch_size=GLOBAL_BATCH_SIZE)
        elif options.what == "checkpoints":
            from benchmarks.scale_checkpoints import measure_checkpoints

            measure_checkpoints(Path(folder))
        else:
            from benchmarks.scale_startup import measure_startup

            measure_startup(Path(folder))


def show_communication() -> None:
    """Print what a step of HorNet-L GF says under each stage, and how long that lasts beside the computation."""
    with torch.device("meta"):
        model = timm.create_model(MODEL, num_classes=NUM_CLASSES, img_size=IMAGE_SIZE)
    assert isinstance(model, HorNet)
    sizes = [parameter.numel() for parameter in model.parameters()]
    peak = find_peak_flops(GPU)
    assert peak is not None
    flops = count_training_flops(model, IMAGE_SIZE)
    print(f"{MODEL}: {sum(sizes) / 1e6:.1f} M parameters, {flops / 1e9:.0f} GFLOP an image, forward and backward")
    print(f"computation at {UTILISATION:.0%} of an {GPU}'s {peak / 1e12:.0f} TFLOP/s; global batch {GLOBAL_BATCH_SIZE}")
    print("  ranks  micro steps  stage   calls   MB sent   compute ms" + "".join(f"{name:>24}" for name in NETWORKS))
    for num_ranks in RANKS:
        images = GLOBAL_BATCH_SIZE // num_ranks
        num_micro_steps = max(1, images // 64)
        compute = images * flops / (UTILISATION * peak)
        for stage in range(4):
            traffic = list_traffic(
                sizes,
                stage=stage,
                num_ranks=num_ranks,
                num_micro_steps=num_micro_steps,
                bucket_elements=ZeroConfig.bucket_elements,
            )
            sent = count_sent_bytes(traffic, num_ranks=num_ranks)
            row = f"{num_ranks:>7}{num_micro_steps:>13}{stage:>7}{sum(part.num_calls for part in traffic):>8}"
            row += f"{sent / 1e6:>10.0f}{1e3 * compute:>13.1f}"
            for network in NETWORKS.values():
                seconds = estimate_seconds(traffic, num_ranks=num_ranks, network=network)
                row += f"{1e3 * seconds:>12.1f} ms {seconds / (seconds + compute):>7.0%}"
            print(row)


if __name__ == "__main__":
    main()
