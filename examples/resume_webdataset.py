"""A webdataset pipeline that goes on at the exact sample, on any number of ranks.

torchrun --nproc_per_node 2 examples/resume_webdataset.py 'tars/set-{000..127}.tar' FOLDER NUM_STEPS, and after a kill
with --nproc_per_node 1 or 3 and, behind it, a copy of FOLDER/step.json: all ranks must read one state; rank 0 writes
the next. FOLDER keeps the index, the state, and what each rank has read.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import webdataset as wds

from hornet.data.step_loader import StepLoader
from hornet.data.webdataset import TrainSamples


def train(tars: str, folder: Path, num_steps: int, state: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield each step and the keys of this rank's samples in it."""
    source = TrainSamples(tars, global_batch_size=12, num_steps=num_steps, index=folder / "index")
    stages = wds.decode("torchrgb"), wds.to_tuple("__key__", "jpg"), wds.batched(source.micro_batch_size)
    pipeline = wds.DataPipeline(source, *stages)
    loader = StepLoader(wds.WebLoader(pipeline, batch_size=None, num_workers=1), source)
    if state is not None:
        loader.load_state_dict(json.loads(Path(state).read_text()))
    while loader.step < num_steps:
        for keys, _images in loader:  # to the end of an epoch
            yield loader.step - 1, list(keys)
            if os.environ.get("RANK", "0") == "0":  # with the weights, in a checkpoint
                (folder / "new.json").write_text(json.dumps(loader.state_dict()))
                (folder / "new.json").rename(folder / "step.json")


if __name__ == "__main__":
    log = Path(sys.argv[2]) / f"rank-{os.environ.get('RANK', '0')}-of-{os.environ.get('WORLD_SIZE', '1')}.jsonl"
    for step, keys in train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]):
        with log.open("a") as file:
            print(json.dumps([step, keys]), file=file)
