"""Losses of validation images, read from run directories and sampled with the fits."""

import numpy as np
import pytest

from scaling.images import explain_images, read_image_values

KEYS = np.array([-5, 2, 9], dtype=np.int64)
LOSS, HIT = np.array([0.5, 1.0, 3.0], dtype=np.float16), np.array([True, True, False])


def keep(folder, *, keys=KEYS, loss=LOSS, hit=HIT):
    (folder / "per_image").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "per_image/step_00000007_raw.npz", key_hash=keys, loss=loss, hit=hit)


def read(folder, *, metric="loss", value=1.5, step=7):
    return read_image_values(folder, step=step, weights="raw", metric=metric, value=value)


def test_losses_and_errors_of_images_are_read_in_the_order_of_their_keys(tmp_path):
    keep(tmp_path)
    assert read(tmp_path).values.tolist() == [0.5, 1.0, 3.0]
    assert read(tmp_path).key_hash.tolist() == [-5, 2, 9]
    assert read(tmp_path, metric="top1_error", value=1 / 3).values.tolist() == [0.0, 0.0, 1.0]


def test_what_does_not_fit_the_runs_value_is_no_part_of_it(tmp_path):
    assert read(tmp_path) is None
    keep(tmp_path)
    assert read(tmp_path, step=8) is None
    assert read(tmp_path, value=1.6) is None
    assert read(tmp_path, value=1.501) is not None  # half precision
    keep(tmp_path, loss=np.array([np.nan, 1.0, 3.0], dtype=np.float16))
    assert read(tmp_path) is None
    keep(tmp_path, keys=KEYS[:2])
    assert read(tmp_path) is None


def test_a_file_that_would_have_to_be_unpickled_is_not_read(tmp_path):
    keep(tmp_path, loss=np.array([0.5, 1.0, "run me"], dtype=object))
    assert read(tmp_path) is None
    (tmp_path / "per_image/step_00000007_raw.npz").write_bytes(b"no archive")
    assert read(tmp_path) is None


@pytest.fixture
def values(tmp_path):
    keep(tmp_path)
    return read(tmp_path)


def test_images_are_sampled_if_all_runs_have_the_same(tmp_path, values):
    assert explain_images([values, values]) == (True, "3, sampled once for all runs: a level of the intervals")
    assert explain_images([None, None]) == (
        False,
        "no level of the intervals: no run kept its images' losses (evaluation.per_image)",
    )
    assert explain_images([values, None]) == (
        False,
        "no level of the intervals: 1 of 2 runs kept no losses of images that fit their value (evaluation.per_image)",
    )
    keep(tmp_path, keys=KEYS + 1)
    other = read(tmp_path)
    assert explain_images([values, other]) == (
        False,
        "no level of the intervals: runs were evaluated on different images",
    )
