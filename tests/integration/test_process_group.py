"""Small sums over ranks, in worlds of powers of two and of others, of real processes."""

import json

import pytest

from tests.integration.conftest import run_python

pytestmark = pytest.mark.slow

SIZES = (1, 2, 3, 5, 8)


@pytest.fixture(scope="module")
def worlds():
    """What each rank found, by the world's size."""
    done = run_python("-m", "tests.integration.small_sums", *map(str, SIZES))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"num_ranks"')]
    return {line["num_ranks"]: line["rows"] for line in lines}


@pytest.mark.parametrize("num_ranks", SIZES)
def test_sums_and_maxima_over_any_number_of_ranks(worlds, num_ranks):
    rows = worlds[num_ranks]
    assert len(rows) == num_ranks
    assert len({json.dumps(row["sum"]) for row in rows}) == 1, "the same to the bit on every rank"
    assert float.fromhex(rows[0]["sum"][0]) == pytest.approx(0.1 * num_ranks * (num_ranks + 1) / 2)
    for row in rows:
        wrapped = (num_ranks * (2**62 + 1) + 2**63) % 2**64 - 2**63
        assert row["wrapped"] == wrapped
        factor = num_ranks * (num_ranks + 1) // 2
        assert row["columns"] == [[0, 3 * factor], [factor, 4 * factor], [2 * factor, 5 * factor]]
        assert row["largest"] == max((rank * 7) % 5 for rank in range(num_ranks))


@pytest.mark.parametrize("num_ranks", SIZES)
def test_an_error_of_one_rank_ends_all(worlds, num_ranks):
    errors = [row["error"] for row in worlds[num_ranks]]
    assert errors == [f"rank {num_ranks - 1} failed: lost its disk"] * (num_ranks - 1) + ["lost its disk"]


def test_a_low_limit_of_open_files_is_raised(worlds):
    """The script begins with 64: eight ranks alone would open 35 connections and files."""
    assert all(row["limit"] > 512 for rows in worlds.values() for row in rows)
