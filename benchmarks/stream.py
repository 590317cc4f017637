"""The training stream: what a resume costs, how well it shuffles, what it keeps in memory.

python -m benchmarks.stream resume     first batch at 90 % of an epoch against at its start; webdataset beside it
python -m benchmarks.stream shuffle    mixing of batches against a full permutation, at the size of ImageNet-22K
python -m benchmarks.stream memory     4 ranks x 2 workers over an index of 14.2 million samples
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.stream_memory import measure_memory
from benchmarks.stream_resume import measure_resume
from benchmarks.stream_shuffle import measure_shuffle
from hornet.shards.processes import count_cores


def main() -> None:
    """Run one of the measurements in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["resume", "shuffle", "memory"])
    parser.add_argument("--shards", type=int, default=128, metavar="N", help="for resume (128)")
    parser.add_argument("--samples-per-shard", type=int, default=200, metavar="N", help="for resume (200)")
    parser.add_argument("--repeat", type=int, default=9, metavar="N", help="for resume: rounds (9)")
    parser.add_argument("--folder", type=Path, help="where temporary files go (default: the system's)")
    options = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pillow", "webdataset"))
    print(
        f"{platform.processor() or platform.machine()}, {count_cores()} cores, Python {platform.python_version()}, "
        f"{libraries}"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.what == "resume":
            measure_resume(
                Path(folder),
                num_shards=options.shards,
                samples_per_shard=options.samples_per_shard,
                num_rounds=options.repeat,
            )
        elif options.what == "shuffle":
            measure_shuffle()
        else:
            measure_memory(Path(folder))


if __name__ == "__main__":
    main()
