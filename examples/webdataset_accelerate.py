"""The stream under Accelerate, undivided: accelerate launch examples/webdataset_accelerate.py TARS.

A StepLoader is no DataLoader, so `prepare` leaves it as it is. A bare DataLoader over TrainSamples would be divided a
second time by `prepare`: never hand one to it.
"""

import sys
from pathlib import Path

import torch
import webdataset as wds
from accelerate import Accelerator
from torch.utils.data import DataLoader

from hornet.data.step_loader import SamplePipeline, StepLoader
from hornet.data.webdataset import TrainSamples


def train(accelerator: Accelerator, tars: str, *, index: Path | None = None) -> list[str]:
    """Train for an epoch; return the captions that this rank has seen."""
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    source = TrainSamples(tars, global_batch_size=8, rank=rank, num_ranks=num_ranks, index=index)
    dataset = SamplePipeline(source, wds.decode("torchrgb"), wds.to_tuple("jpg", "txt"))
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = StepLoader(DataLoader(dataset, batch_size=source.micro_batch_size), source)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(loader)  # save_state and load_state keep its place
    seen: list[str] = []
    for images, captions in loader:
        accelerator.backward(model(images.to(accelerator.device)).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        seen += captions
    return seen


if __name__ == "__main__":
    seen = train(Accelerator(cpu=True), sys.argv[1], index=Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    print("\n".join(seen))
