"""transformers' Trainer on the stream: StreamTrainer(model, arguments, tars=..., index=...).train(...), then with
resume_from_checkpoint=True, on any number of devices. The state is the step, and the Trainer keeps that itself.

What it would do to go on, read its batches again and throw them away, needs the parts of a DataLoader, and is left out.
"""

from pathlib import Path
from typing import Any

import webdataset as wds
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from hornet.data.step_loader import SamplePipeline, StepLoader
from hornet.data.webdataset import TrainSamples


class StreamTrainer(Trainer, TrainerCallback):
    """Its step is what all devices see between two updates of the weights; the collator gets images and captions."""

    def __init__(self, *arguments: Any, tars: str, index: Path | None = None, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.tars, self.index, self.args.ignore_data_skip = tars, index, True
        self.add_callback(self)

    def get_train_dataloader(self) -> StepLoader:
        """Take transformers' place."""
        args, micro = self.args, self.args.train_batch_size
        sizes = {"global_batch_size": micro * args.world_size * args.gradient_accumulation_steps}
        world = {"rank": args.process_index, "num_ranks": args.world_size}
        source = TrainSamples(self.tars, micro_batch_size=micro, index=self.index, seed=args.seed, **sizes, **world)
        dataset = SamplePipeline(source, wds.decode("torchrgb"), wds.to_tuple("jpg", "txt"))
        self.stream = StepLoader(DataLoader(dataset, batch_size=micro, collate_fn=self.data_collator), source)
        return self.stream

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the stream where the Trainer stands."""
        self.stream.load_state_dict({"step": state.global_step})
