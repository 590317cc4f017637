import torch
from torch import nn

from hornet.batch import Batch
from hornet.training.evaluate import evaluate
from tests.unit.training.fakes import make_bad_sample


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
