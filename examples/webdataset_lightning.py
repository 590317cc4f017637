# ruff: noqa: D102  the methods are Lightning's
"""Lightning, whose checkpoints hold the loader's place: this file, TARS, FOLDER, NUM_STEPS, NUM_RANKS; again to go on.
They take its state_dict() within an epoch too. It is made in train_dataloader, as no rank knows its number before fit.
"""

import sys

import pytorch_lightning as pl
import torch
import webdataset as wds

from hornet.data.step_loader import SamplePipeline, StepLoader
from hornet.data.webdataset import TrainSamples


class Captioned(pl.LightningModule):
    """One weight a channel, of images with captions."""

    def __init__(self, tars: str, index: str) -> None:
        super().__init__()
        self.tars, self.index, self.weight = tars, index, torch.nn.Parameter(torch.ones(3, 1, 1))

    def train_dataloader(self) -> StepLoader:
        world = {"rank": self.trainer.global_rank, "num_ranks": self.trainer.world_size}
        source = TrainSamples(self.tars, global_batch_size=8, index=self.index, **world)
        dataset = SamplePipeline(source, wds.decode("torchrgb"), wds.to_tuple("jpg", "txt"))
        return StepLoader(torch.utils.data.DataLoader(dataset, batch_size=source.micro_batch_size), source)

    def training_step(self, batch: tuple, number: int) -> torch.Tensor:
        print(f"{self.current_epoch} {number} {self.global_rank}: {', '.join(batch[1])}\n", end="")
        return (self.weight * batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


if __name__ == "__main__":
    keep = pl.callbacks.ModelCheckpoint(sys.argv[2], every_n_train_steps=1, save_top_k=0, save_last=True)
    trainer = pl.Trainer(max_steps=int(sys.argv[3]), devices=int(sys.argv[4]), callbacks=[keep], logger=False)
    trainer.fit(Captioned(*sys.argv[1:3]), ckpt_path="last")
