"""webdataset's stages in a plain DataLoader: python examples/webdataset_dataloader.py TARS [fork|spawn].

Each sample of the tars needs an image, NAME.jpg, and its caption, NAME.txt.
"""

import sys
from pathlib import Path

import webdataset as wds
from torch.utils.data import DataLoader

from hornet.data.step_loader import SamplePipeline, StepLoader
from hornet.data.webdataset import TrainSamples


def make_loader(tars: str, *, context: str = "fork", index: Path | None = None) -> StepLoader:
    """Return batches of images (B, 3, H, W) and captions; the state is the step."""
    source = TrainSamples(tars, global_batch_size=8, seed=0, index=index)
    dataset = SamplePipeline(source, wds.decode("torchrgb"), wds.to_tuple("jpg", "txt"))
    loader = DataLoader(dataset, batch_size=source.micro_batch_size, num_workers=2, multiprocessing_context=context)
    return StepLoader(loader, source)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/webdataset_dataloader.py TARS [fork|spawn]")
    loader = make_loader(sys.argv[1], context=sys.argv[2] if len(sys.argv) > 2 else "fork")
    for images, captions in loader:  # an epoch
        print(loader.step, tuple(images.shape), captions[0])
    print(loader.state_dict())
