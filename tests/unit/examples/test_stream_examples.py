"""The examples of the stream: each is short, and does in its library what the stream promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hornet.data.webdataset import TrainSamples
from tests.patience import PATIENCE
from tests.unit.examples.test_examples import EXAMPLES, load
from tests.unit.shards.whole_tars import write_whole_tars

ROOT = EXAMPLES.parent
CAPTIONS = [f"caption {number}" for number in range(40)]


@pytest.fixture
def tars(tmp_path: Path) -> list[str]:
    return write_whole_tars(tmp_path / "tars")


def start(name: str, *arguments: object, rank: int = 0, num_ranks: int = 1) -> subprocess.Popen[str]:
    """As a launcher does."""
    world = {"RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": num_ranks}
    return subprocess.Popen(
        [sys.executable, "-m", f"examples.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {key: str(value) for key, value in world.items()} | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.slow
def test_a_pipeline_goes_on_at_the_exact_sample_on_2_then_1_then_3_ranks(tars, tmp_path):
    """Two ranks are killed in the middle of an epoch; whoever goes on begins with the very next batch."""
    pattern, num_steps = f"{tmp_path}/tars/any-{{00..04}}.tar", 8
    undisturbed = [
        sample["__key__"]
        for sample in TrainSamples(
            tars, global_batch_size=12, num_steps=num_steps, rank=0, num_ranks=1, index=tmp_path / "alone"
        )
    ]
    steps = [undisturbed[begin : begin + 12] for begin in range(0, 12 * num_steps, 12)]

    def read_state() -> int:
        path = tmp_path / "step.json"
        return json.loads(path.read_text())["step"] if path.exists() else 0

    ranks = [start("resume_webdataset", pattern, tmp_path, 10**6, rank=rank, num_ranks=2) for rank in range(2)]
    logs = [tmp_path / f"rank-{rank}-of-2.jsonl" for rank in range(2)]
    while not all(log.exists() and log.read_text().count("\n") >= 2 for log in logs) or read_state() < 2:
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.01)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
        rank.communicate()
    state = json.loads((tmp_path / "step.json").read_text())
    (tmp_path / "step.json").write_text(json.dumps(state | {"step": 2}))  # the state that both had reached
    for num_ranks, stop in ((1, 5), (3, num_steps)):
        begin, state = read_state(), shutil.copy(tmp_path / "step.json", tmp_path / f"begin_{stop}.json")
        ranks = [
            start("resume_webdataset", pattern, tmp_path, stop, state, rank=r, num_ranks=num_ranks)
            for r in range(num_ranks)
        ]
        for rank in ranks:
            rank.communicate(timeout=PATIENCE)
        assert [rank.returncode for rank in ranks] == [0] * num_ranks
        assert read_state() == stop
        logs = [tmp_path / f"rank-{rank}-of-{num_ranks}.jsonl" for rank in range(num_ranks)]
        read = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
        assert [[step for step, _ in rows] for rows in read] == [list(range(begin, stop))] * num_ranks
        for number, step in enumerate(range(begin, stop)):
            assert [key for rows in read for key in rows[number][1]] == steps[step]
    killed = [
        [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for log in (tmp_path / "rank-0-of-2.jsonl", tmp_path / "rank-1-of-2.jsonl")
    ]
    for step in range(2):
        assert killed[0][step][1] + killed[1][step][1] == steps[step]


@pytest.mark.slow
def test_a_plain_dataloader_that_spawns_gives_what_one_that_forks_gives(tars, tmp_path):
    loader = load("webdataset_dataloader")["make_loader"](tars, index=tmp_path / "index")
    forked = [caption for _, captions in loader for caption in captions]
    assert sorted(forked) == sorted(CAPTIONS)
    spawned = start("webdataset_dataloader", f"{tmp_path}/tars/any-*.tar", "spawn")
    lines = spawned.communicate(timeout=PATIENCE)[0].splitlines()
    assert lines[:-1] == [f"{step + 1} (8, 3, 20, 26) {forked[8 * step]}" for step in range(5)]
    assert "'step': 5" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdatas_loader_goes_on_at_its_state(tars, tmp_path, num_workers):
    def open_loader() -> Any:
        return load("webdataset_stateful")["make_loader"](
            tars, num_workers=num_workers, index=tmp_path / "index", num_steps=9
        )

    whole = [captions for _, captions in open_loader()]
    assert len(whole) == 9
    loader = open_loader()
    assert [captions for _, captions in islice(loader, 4)] == whole[:4]
    state = loader.state_dict()
    again = open_loader()
    again.load_state_dict(state)
    assert [captions for _, captions in again] == whole[4:]


@pytest.mark.slow
def test_accelerate_does_not_divide_it_again(tars, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "examples.webdataset_accelerate", f"{tmp_path}/tars/any-*.tar", str(tmp_path / "index")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"caption \d+", done.stdout)) == sorted(CAPTIONS)  # lines of two ranks may touch


@pytest.fixture
def accelerator(launched):
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate_saves_and_loads_its_place(tars, tmp_path, accelerator):
    load("webdataset_accelerate")["train"](accelerator, tars, index=tmp_path / "index")
    accelerator.save_state(str(tmp_path / "state"))
    [loader] = accelerator._custom_objects
    loader.load_state_dict({"step": 2})
    accelerator.load_state(str(tmp_path / "state"))
    assert (loader.step, loader.epoch) == (5, 1)


class OneWeight(torch.nn.Module):
    """Keeps the captions that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[list[str]] = []

    def forward(self, images: torch.Tensor, captions: list[str]) -> dict[str, torch.Tensor]:
        self.seen.append(captions)
        return {"loss": (self.weight * images.mean()).square()}


@pytest.mark.slow
def test_transformers_trainer_goes_on_at_its_step(tars, tmp_path, accelerator):
    from transformers import TrainingArguments  # seconds

    def collate(samples: list[Any]) -> dict[str, Any]:
        return {"images": torch.stack([image for image, _ in samples]), "captions": [text for _, text in samples]}

    def train(num_steps: int, folder: str, *, resume: bool = False) -> list[list[str]]:
        arguments = TrainingArguments(
            str(tmp_path / folder),
            max_steps=num_steps,
            save_steps=1,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        model = OneWeight()
        stream = {"tars": tars, "index": tmp_path / "index"}
        load("webdataset_transformers")["StreamTrainer"](model, arguments, data_collator=collate, **stream).train(
            resume_from_checkpoint=resume or None
        )
        return model.seen

    whole = train(7, "whole")
    assert len(whole) == 14
    assert sorted(text for captions in whole[:10] for text in captions) == sorted(CAPTIONS)
    assert train(3, "parts") + train(7, "parts", resume=True) == whole


@pytest.mark.slow
def test_open_clips_loop_runs_on_it(tars, tmp_path):
    data = load("webdataset_open_clip")["make_data"](
        tars, lambda image: torch.tensor(image.size), len, global_batch_size=8, index=tmp_path / "index"
    )
    read: list[list[int]] = []
    for epoch in (0, 1):  # the shape of train_one_epoch
        data.set_epoch(epoch)
        for batch in data.dataloader:
            images, texts = batch
            assert images.shape == (8, 2)
            read.append(texts.tolist())
    assert (data.dataloader.num_batches, data.dataloader.num_samples) == (5, 40)
    assert len(read) == 10
    data.set_epoch(1)
    assert [texts.tolist() for _, texts in islice(data.dataloader, 2)] == read[5:7]


@pytest.mark.slow
def test_lightning_goes_on_within_an_epoch_on_another_number_of_ranks(tars, tmp_path):
    """Two ranks of Lightning's own launcher stop after three of five batches; its checkpoint brings one rank there."""
    pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")
    keys = [
        sample["txt"].decode()
        for sample in TrainSamples(
            tars, global_batch_size=8, num_steps=7, rank=0, num_ranks=1, index=tmp_path / "alone"
        )
    ]
    found: dict[tuple[int, int], list[str]] = {}
    for num_steps, num_ranks in ((3, 2), (7, 1)):
        arguments = [f"{tmp_path}/tars/any-*.tar", str(tmp_path / "out"), str(num_steps), str(num_ranks)]
        done = subprocess.run(
            [sys.executable, "-m", "examples.webdataset_lightning", *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        lines = re.findall(r"(\d+) (\d+) (\d+): (caption.*)", done.stdout)
        for epoch, number, _rank, captions in sorted(set(lines)):
            found.setdefault((int(epoch), int(number)), []).extend(captions.split(", "))
        assert len(found) == num_steps
    assert [name for _, names in sorted(found.items()) for name in names] == keys


def test_a_loop_of_ones_own_streams_images(toy_set):
    train = load("stream_images")["train"]
    whole = train(toy_set)
    assert Counter(whole) == Counter(key for rank in range(2) for key in train(toy_set, rank=rank, num_ranks=2))
    assert train(toy_set, first_step=2, num_steps=1) == whole[16:]


@pytest.mark.slow
def test_the_loops_in_the_documentation_run_as_they_stand(toy_set):
    text = (ROOT / "docs/stream.md").read_text()
    section = text.split("## Images in a loop of one's own")[1].split("\n## ")[0]
    programs = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    training, evaluation = (program.replace("num_workers=8", "num_workers=1") for program in programs)
    names: dict[str, Any] = {"first_step": 2, "num_steps": 1}
    exec(training.replace('"data/imagenet-1k"', repr(str(toy_set))).replace("1024", "16"), names)
    assert names["images"].shape == (16, 3, 224, 224)
    evaluation = evaluation.replace('"data/imagenet-1k"', f'{str(toy_set)!r}, split="train"')
    exec(evaluation.replace("stream.iterate()", "(batches := list(stream.iterate()))"), names)
    assert sum(batch.is_real.sum() for batch in names["batches"]) == len(names["images"]) == 48
