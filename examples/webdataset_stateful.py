"""The same samples under torchdata's StatefulDataLoader, whose state holds a number for each worker."""

from pathlib import Path

import webdataset as wds
from torchdata.stateful_dataloader import StatefulDataLoader

from hornet.data.step_loader import SamplePipeline
from hornet.data.webdataset import TrainSamples


def make_loader(tars: str, *, num_workers: int, index: Path | None = None, num_steps: int = 1000) -> StatefulDataLoader:
    """Return batches of images and captions; state_dict() and load_state_dict() are torchdata's.

    Its state fits the same number of workers alone; that of a StepLoader fits any.
    """
    source = TrainSamples(tars, global_batch_size=8, seed=0, index=index, num_steps=num_steps)
    dataset = SamplePipeline(source, wds.decode("torchrgb"), wds.to_tuple("jpg", "txt"))
    return StatefulDataLoader(dataset, batch_size=source.micro_batch_size, num_workers=num_workers)
