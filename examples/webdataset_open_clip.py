"""In the place of open_clip's get_wds_dataset: what its train_one_epoch asks of data["train"], with exact resume.

Its loop calls set_epoch(epoch), reads num_batches and num_samples of the dataloader and takes (images, texts) from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import webdataset as wds

from hornet.data.step_loader import StepLoader
from hornet.data.webdataset import TrainSamples


@dataclass
class TrainData:
    """As open_clip's DataInfo."""

    dataloader: Any

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, or go on within it where the loader stands."""
        if self.dataloader.epoch != epoch:
            self.dataloader.load_state_dict({"step": epoch * len(self.dataloader)})


def make_data(
    tars: str, preprocess: Callable[[Any], Any], tokenize: Callable[[str], Any], *, global_batch_size: int, index: Path
) -> TrainData:
    """Return data["train"]; data["train"].dataloader.state_dict() belongs into the checkpoint."""
    source = TrainSamples(tars, global_batch_size=global_batch_size, require=["jpg;png;webp", "txt"], index=index)
    stages = [wds.decode("pilrgb"), wds.rename(image="jpg;png;webp", text="txt"), wds.to_tuple("image", "text")]
    stages += [wds.map_tuple(preprocess, tokenize), wds.batched(source.micro_batch_size)]
    loader: Any = StepLoader(wds.WebLoader(wds.DataPipeline(source, *stages), batch_size=None, num_workers=2), source)
    loader.num_batches, loader.num_samples = len(loader), len(loader) * global_batch_size
    return TrainData(loader)
