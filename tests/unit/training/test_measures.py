"""Measures of an evaluation against scikit-learn, timm and definitions written out; on ranks: tests/integration."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from timm.data import RealLabelsImagenet

from hornet.training.evaluate import judge
from hornet.training.measures import Measures
from tests.unit.training.fakes import make_bad_sample

NUM_CLASSES = 12


def make_logits(count=400, num_classes=NUM_CLASSES, seed=0):
    """Logits that favour the label, and labels of very different frequency; the last class has no image."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(count, generator=random) ** 2 * (num_classes - 1)).long()
    logits = torch.randn(count, num_classes, generator=random)
    logits[torch.arange(count), labels] += 1.2
    return logits, labels


def measure(logits, labels, *, is_counted=None, accepted=None, num_bins=15, num_confusions=1000, batch=64, bad=()):
    counts = Measures(num_classes=logits.shape[1], num_bins=num_bins, num_confusions=num_confusions)
    is_counted = torch.ones(len(labels), dtype=torch.bool) if is_counted is None else is_counted
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        judged = judge(logits[part], labels[part], is_counted[part])
        counts.add(judged, num_bad=len(bad), accepted=None if accepted is None else accepted[part])
    return counts.finish()


def test_against_scikit_learn(alone):
    logits, labels = make_logits()
    found = measure(logits, labels)
    predicted = logits.argmax(dim=1)
    everything = np.arange(NUM_CLASSES)
    probabilities = logits.double().softmax(dim=1).numpy()
    evaluation = found.evaluation
    assert round(evaluation.top1 * 4) == accuracy_score(labels, predicted, normalize=False), "400 images"
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=everything, normalize=False)
    assert round(evaluation.top5 * 4) == top5
    assert evaluation.loss == pytest.approx(log_loss(labels, probabilities, labels=everything), rel=1e-6)
    matrix = confusion_matrix(labels, predicted, labels=everything)
    assert [row.num_images for row in found.classes] == matrix.sum(axis=1).tolist()
    assert [row.top1 for row in found.classes] == matrix.diagonal().tolist()
    pairs = np.zeros_like(matrix)
    for pair in found.confusions:
        pairs[pair.label, pair.predicted] = pair.count
    assert (pairs == matrix - np.diag(matrix.diagonal())).all()
    shares = [row.top1 / row.num_images for row in found.classes if row.num_images]
    assert np.mean(shares) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_calibration_against_scikit_learn(alone):
    logits, labels = make_logits()
    found = measure(logits, labels, num_bins=10).calibration
    sure, predicted = logits.double().softmax(dim=1).max(dim=1)
    hits = predicted == labels
    shares, confidences = calibration_curve(hits, sure, n_bins=10)
    used = [n for n, count in enumerate(found.counts) if count]
    np.testing.assert_allclose([found.hits[n] / found.counts[n] for n in used], shares, rtol=1e-12)
    np.testing.assert_allclose([found.confidences[n] / found.counts[n] for n in used], confidences, rtol=1e-6)
    edges = torch.linspace(0, 1, 11, dtype=torch.float64)
    error = 0.0
    for low, high in pairwise(edges):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            error += float(inside.double().mean() * (hits[inside].double().mean() - sure[inside].mean()).abs())
    assert found.error == pytest.approx(error, rel=1e-6)


def test_calibration_by_hand(alone):
    """Two images of confidence 3/4, one right; two of 1/2 at a bin's upper edge, both right."""
    three, even = [np.log(3.0), 0.0], [0.0, 0.0]
    found = measure(torch.tensor([three, three, even, even]), torch.tensor([0, 1, 0, 0]), num_bins=2).calibration
    assert (found.counts, found.hits) == ((2, 2), (2, 1))
    assert found.error == pytest.approx(0.5 * (1 - 0.5) + 0.5 * (0.75 - 0.5))


def test_the_most_confused_come_first_and_ties_by_label(alone):
    logits = torch.eye(4)[[1, 1, 2, 3, 0, 2]]
    found = measure(logits, torch.tensor([0, 0, 0, 0, 1, 2]), num_confusions=2)
    assert [(pair.label, pair.predicted, pair.count) for pair in found.confusions] == [(0, 1, 2), (0, 2, 1)]


def test_padding_counts_nowhere(alone):
    logits, labels = make_logits(100)
    is_counted = torch.arange(100) % 3 > 0
    accepted = torch.ones(100, NUM_CLASSES, dtype=torch.bool)
    bad = (make_bad_sample(),)
    with_padding = measure(logits, labels, is_counted=is_counted, accepted=accepted, batch=100, bad=bad)
    without = measure(logits[is_counted], labels[is_counted], accepted=accepted[is_counted], batch=100, bad=bad)
    assert with_padding == without
    assert with_padding.evaluation.num_images == with_padding.multi_label.num_images == 66


def test_images_whose_logits_are_nan_are_missed_and_have_no_confidence(alone):
    logits, labels = make_logits(8)
    logits[3, 1] = torch.nan
    found = measure(logits, labels, accepted=torch.ones(8, NUM_CLASSES, dtype=torch.bool))
    assert found.evaluation.loss != found.evaluation.loss
    assert sum(found.calibration.counts) == 7
    assert found.multi_label.top1 == 100 * 7 / 8
    assert sum(row.num_images for row in found.classes) == 8


def test_several_labels_against_timm(alone, tmp_path):
    """timm's class on its own terms: ten images of which some have no label, judged by file names."""
    logits, labels = make_logits(10)
    real = [[int(label)] for label in labels]
    real[1], real[4], real[6] = [], [], [int(labels[6]), (int(logits[6].argmax()) + 1) % NUM_CLASSES]
    (tmp_path / "real.json").write_text(str(real))
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 11)]
    timms = RealLabelsImagenet(names, real_json=tmp_path / "real.json")
    timms.add_result(logits)
    accepted = torch.zeros(10, NUM_CLASSES, dtype=torch.bool)
    for row, classes in enumerate(real):
        accepted[row, classes] = True
    found = measure(logits, labels, accepted=accepted).multi_label
    assert found.num_images == 8
    assert (found.top1, found.top5) == (timms.get_accuracy(1), timms.get_accuracy(5))
