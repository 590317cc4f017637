import dataclasses
import io

import numpy as np
import pytest
import torch
from torch import nn

from hornet.batch import Batch
from hornet.config import ConfigError, build_config
from hornet.errors import UserError
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.stages.config import EvaluateConfig
from hornet.stages.preprocessing import take_from_run
from hornet.training import image_results, session
from hornet.training.checkpoints.state import RunState
from hornet.training.evaluate import Evaluation, evaluate
from hornet.training.image_results import ImageResults
from hornet.training.metrics import MetricsRecorder
from hornet.world import ALONE
from tests.unit.training.fakes import CountingEngine, make_bad_sample, make_components


class Lookup(nn.Module):
    """Returns the logits that stand in the image."""

    def forward(self, images):
        return images


def batch(logits, labels, real, bad=()):
    size = len(labels)
    return Batch(
        images_bchw=torch.tensor(logits),
        labels=torch.tensor(labels),
        erase_boxes=torch.zeros(size, 4, dtype=torch.int32),
        key_hashes=torch.zeros(size, dtype=torch.int64),
        keys=("",) * size,
        is_real=torch.tensor(real),
        bad_samples=tuple(bad),
    )


def test_counts_by_hand(alone):
    first = batch([[9.0, 0, 0, 0, 0, 0], [0, 9.0, 8, 7, 6, 5]], [0, 0], [True, True])
    padded = batch([[0, 0, 5.0, 0, 0, 1], [9.0, 0, 0, 0, 0, 0]], [5, 0], [True, False], bad=[make_bad_sample()])
    result = evaluate(Lookup(), [first, padded], normalise=lambda b: b.images_bchw, device=torch.device("cpu"))
    assert result.num_images == 3
    assert result.num_bad_images == 1
    assert result.top1 == 100 / 3
    # image 2: its label 0 is the smallest of six logits, not among the top five; image 3: label 5 is second
    assert result.top5 == 200 / 3
    logits = torch.cat([first.images_bchw, padded.images_bchw[:1]])
    expected = nn.functional.cross_entropy(logits, torch.tensor([0, 0, 5]))
    assert abs(result.loss - float(expected)) < 1e-6


def test_fewer_than_five_classes(alone):
    result = evaluate(
        Lookup(), [batch([[0.0, 1.0]], [0], [True])], normalise=lambda b: b.images_bchw, device=torch.device("cpu")
    )
    assert (result.top1, result.top5) == (0.0, 100.0)


def test_logits_that_are_nan_hit_nothing(alone):
    """topk takes NaN for the largest, so that the first classes would count as found."""
    nan = float("nan")
    images = batch([[nan] * 6, [0, nan, 0, 0, 0, 9.0], [0, 9.0, 0, 0, 0, 0]], [0, 5, 1], [True] * 3)
    result = evaluate(Lookup(), [images], normalise=lambda b: b.images_bchw, device=torch.device("cpu"))
    assert (result.top1, result.top5, result.num_images) == (100 / 3, 100 / 3, 3)
    assert result.loss != result.loss


def read(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


def with_keys(made, keys):
    return dataclasses.replace(made, key_hashes=torch.tensor(keys, dtype=torch.int64))


def test_results_of_each_image_are_kept_by_key(alone):
    first = with_keys(batch([[9.0, 0, 0, 0, 0, 0], [0, 9.0, 8, 7, 6, 5]], [0, 0], [True, True]), [7, -3])
    padded = with_keys(batch([[0, 0, 5.0, 0, 0, 1], [9.0, 0, 0, 0, 0, 0]], [5, 0], [True, False]), [5, 0])
    images = ImageResults()
    settings = {"normalise": lambda b: b.images_bchw, "device": torch.device("cpu")}
    result = evaluate(Lookup(), [first, padded], **settings, images=images)
    arrays = read(images.gather())
    assert arrays["key_hash"].tolist() == [-3, 5, 7], "padding is no image"
    assert arrays["hit"].tolist() == [False, False, True]
    assert arrays["loss"].dtype == np.float16
    logits = torch.cat([first.images_bchw, padded.images_bchw[:1]])
    expected = nn.functional.cross_entropy(logits, torch.tensor([0, 0, 5]), reduction="none")[[1, 2, 0]]
    np.testing.assert_allclose(arrays["loss"], expected, rtol=1e-3)
    assert arrays["hit"].mean() * 100 == pytest.approx(result.top1)
    assert evaluate(Lookup(), [first, padded], **settings) == result


def test_the_file_is_the_same_however_the_images_were_divided(alone, monkeypatch):
    keys = torch.randperm(20, generator=torch.Generator().manual_seed(0)) - 10
    losses, hits = torch.linspace(0, 3, 20), torch.arange(20) % 3 == 0

    def divide(num_ranks, batch_size):
        ranks = [ImageResults() for _ in range(num_ranks)]
        for number, start in enumerate(range(0, 20, batch_size)):
            part = slice(start, start + batch_size)
            ranks[number % num_ranks].add(keys[part], losses[part], hits[part])
        columns = []
        monkeypatch.setattr(image_results, "gather_from_all", lambda mine: columns.append(mine) or columns)
        return [rank.gather() for rank in ranks][-1]  # the last one sees what all have

    whole = read(divide(1, 20))
    assert sorted(keys.tolist()) == whole["key_hash"].tolist()
    for num_ranks, batch_size in ((2, 3), (3, 20), (1, 7)):  # of three ranks two have nothing
        divided = read(divide(num_ranks, batch_size))
        assert all((divided[name] == whole[name]).all() for name in whole)


def test_images_of_one_key_are_refused(alone):
    images = ImageResults()
    images.add(torch.tensor([4, 4, 5]), torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(UserError, match=r"^evaluation.per_image: 1 images share the key \(tar and name\) of another"):
        images.gather()


def test_it_is_for_training_runs_only():
    values = {"source": "w.pth", "evaluation": {"shards": "s", "image_size": 64, "per_image": True}}
    with pytest.raises(
        ConfigError, match=r"evaluation\.per_image: is for training runs, whose directory takes the file"
    ):
        build_config(EvaluateConfig, values, source="test")
    run = {"evaluation": values["evaluation"], "precision": "fp32"}
    assert "per_image" not in take_from_run(run)["evaluation"], "a run that kept them is evaluated as any other"


@pytest.mark.parametrize(("step", "written"), [(10, ["step_00000010_ema.npz", "step_00000010_raw.npz"]), (5, [])])
def test_a_run_writes_them_at_its_last_evaluation(tmp_path, alone, step, written):
    def add_one(model, images=None):
        if images is not None:
            images.add(torch.tensor([3]), torch.tensor([0.5]), torch.tensor([True]))
        return Evaluation(top1=100.0, top5=100.0, loss=0.5, num_images=1, num_bad_images=0)

    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    run.tensorboard.mkdir(parents=True)
    components = make_components(CountingEngine(), evaluate=add_one, keeps_image_results=True)  # 10 steps
    recorder = MetricsRecorder(run, components, world=ALONE, first_step=0, device=torch.device("cpu"))
    session._evaluate(run, components, recorder, ALONE, RunState(step=step), weights=("raw", "ema"))
    recorder.close()
    assert sorted(path.name for path in run.path.glob("per_image/*")) == written
    assert len(run.read("evaluations")) == 2
