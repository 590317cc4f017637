"""Every image counts once on 1, 2 and 3 ranks, which pad 48 images to 50, 50 and 60; scikit-learn counts them too."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from hornet.data.augment.mixing import normalise
from hornet.data.config import MixingConfig
from hornet.stages.evaluation import open_stream
from hornet.world import ALONE
from tests.integration.conftest import run_python
from tests.integration.counted_ranks import CLASSES, compute_logits, make_config, make_features
from tests.unit.shards.making import make_set

pytestmark = pytest.mark.slow

SIZES = (1, 2, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def worlds(made):
    """What rank 0 found, by the world's size."""
    done = run_python("-m", "tests.integration.counted_ranks", str(made), *map(str, SIZES))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"num_ranks"')]
    return {line["num_ranks"]: line for line in lines}


@pytest.fixture(scope="module")
def expected(made):
    """Labels and logits of the set's own classes, read by this process alone."""
    batches = list(open_stream(make_config(made).evaluation, world=ALONE).iterate())
    mixing, device = MixingConfig(), torch.device("cpu")
    logits = torch.cat([compute_logits(normalise(b, mean=mixing.mean, std=mixing.std, device=device)) for b in batches])
    is_real = torch.cat([b.is_real for b in batches])
    own = [CLASSES.index(f"class_{label:05d}") for label in range(5)]
    return torch.cat([b.labels for b in batches])[is_real], logits[is_real][:, own]


@pytest.mark.parametrize("num_ranks", SIZES)
def test_counts_are_exact(worlds, expected, num_ranks):
    labels, logits = expected
    found = worlds[num_ranks]["found"]
    evaluation = found["evaluation"]
    assert evaluation["num_images"] == len(labels) == 48
    assert evaluation["top1"] == 100 * accuracy_score(labels, logits.argmax(1), normalize=False) / 48
    assert evaluation["top5"] == 100 * top_k_accuracy_score(labels, logits, k=5, normalize=False, labels=range(5)) / 48
    assert evaluation["loss"] == pytest.approx(log_loss(labels, logits.double().softmax(1)), rel=1e-6)
    matrix = confusion_matrix(labels, logits.argmax(1))
    assert [row["num_images"] for row in found["classes"]] == matrix.sum(1).tolist()
    assert [row["top1"] for row in found["classes"]] == matrix.diagonal().tolist()
    pairs = {(pair["label"], pair["predicted"]): pair["count"] for pair in found["confusions"]}
    for label in range(5):
        for other in range(5):
            assert label == other or pairs.get((label, other), 0) == matrix[label, other]
    alone = worlds[1]["found"]
    for part in ("classes", "confusions"):
        assert found[part] == alone[part]
    for part in ("counts", "hits"):
        assert found["calibration"][part] == alone["calibration"][part]
    assert found["calibration"]["error"] == pytest.approx(alone["calibration"]["error"], rel=1e-12)


@pytest.mark.parametrize("num_ranks", SIZES)
def test_an_error_of_one_rank_ends_all(worlds, num_ranks):
    assert (
        worlds[num_ranks]["error"]
        == ("rank 1 failed: " if num_ranks == 2 else "")
        + ("rank 2 failed: " if num_ranks == 3 else "")
        + "lost its set"
    )


@pytest.mark.parametrize("num_ranks", SIZES)
def test_features_are_judged_alike(worlds, num_ranks):
    memory, queries = ((part.rows.double().numpy(), part.labels.numpy()) for part in map(make_features, (101, 53)))
    theirs = [
        KNeighborsClassifier(count, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)).fit(*memory)
        for count in (1, 9)
    ]
    theirs.append(LogisticRegression(C=1 / (0.01 * 101), tol=1e-8, max_iter=5000).fit(*memory))
    found = worlds[num_ranks]["probe"]
    assert found["num_images"] == [53] * 3
    assert found["hits"] == [int((model.predict(queries[0]) == queries[1]).sum()) for model in theirs]
