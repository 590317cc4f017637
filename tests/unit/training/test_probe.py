"""Neighbours and linear classifiers against scikit-learn; on ranks: tests/integration/test_counts.py."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from hornet.training import probe
from hornet.training.probe import Features, classify_by_neighbours, classify_linearly, fit_linear

NUM_CLASSES, TEMPERATURE, L2 = 4, 0.07, 1e-2


def make_features(count, *, seed, padding=0):
    """Clouds that overlap; padding is of a class of its own at the centre of all, which it would win."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=random)
    centres = torch.randn(NUM_CLASSES, 8, generator=torch.Generator().manual_seed(9))
    rows = centres[labels] + 1.3 * torch.randn(count, 8, generator=random)
    rows = torch.cat([rows, 9 * centres[:1].expand(padding, -1)])
    labels = torch.cat([labels, torch.full((padding,), 3)])
    return Features(rows=rows, labels=labels, is_real=torch.arange(count + padding) < count)


def take_real(features):
    return features.rows[features.is_real].double().numpy(), features.labels[features.is_real].numpy()


@pytest.mark.parametrize("block", [7, 1000])
def test_neighbours_against_scikit_learn(alone, monkeypatch, block):
    monkeypatch.setattr(probe, "BLOCK", 50)
    memory, queries = make_features(201, seed=0, padding=9), make_features(83, seed=1, padding=4)
    found = classify_by_neighbours(
        memory, queries, neighbours=(1, 10, 25), temperature=TEMPERATURE, num_classes=NUM_CLASSES, block=block
    )
    rows, labels = take_real(queries)
    for count, share in found.items():
        theirs = KNeighborsClassifier(count, metric="cosine", weights=lambda d: np.exp((1 - d) / TEMPERATURE))
        theirs.fit(*take_real(memory))
        assert share.num_images == 83
        assert share.hits == (theirs.predict(rows) == labels).sum()
    assert len({share.hits for share in found.values()}) > 1


def test_more_neighbours_than_images(alone):
    """Places that nobody takes do not vote, though their label reads as the first class."""
    memory = Features(rows=torch.eye(2), labels=torch.tensor([1, 2]), is_real=torch.ones(2, dtype=torch.bool))
    found = classify_by_neighbours(memory, memory, neighbours=(5,), temperature=0.07, num_classes=3)
    assert found[5].hits == 2


@pytest.mark.slow  # torch's L-BFGS brings its compiler
@pytest.mark.parametrize("block", [64, 1000])
def test_linear_against_scikit_learn(alone, block):
    memory, queries = make_features(300, seed=2, padding=5), make_features(100, seed=3, padding=2)
    weight, bias = fit_linear(memory, num_classes=NUM_CLASSES, l2=L2, block=block)
    rows, labels = take_real(memory)
    theirs = LogisticRegression(C=1 / (L2 * len(rows)), tol=1e-8, max_iter=5000).fit(rows, labels)
    np.testing.assert_allclose(weight, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)
    share = classify_linearly(queries, weight, bias, block=block)
    rows, labels = take_real(queries)
    assert (share.hits, share.num_images) == ((theirs.predict(rows) == labels).sum(), 100)
    assert share.top1 == share.hits
