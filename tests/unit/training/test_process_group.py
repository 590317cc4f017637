"""What a process asks of its machine before it joins a world; real worlds: tests/integration/test_process_group.py."""

import resource

import pytest

from hornet.errors import UserError
from hornet.training.process_group import allow_open_files


@pytest.fixture
def limits(monkeypatch):
    """The process's limits of open files, for this test alone."""
    here = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(here))
    monkeypatch.setattr(resource, "setrlimit", lambda which, wanted: here.__setitem__(slice(None), wanted))
    return here


def test_a_small_world_leaves_the_limit_alone(limits):
    allow_open_files(8)
    assert limits == [1024, 4096]


def test_a_large_world_raises_the_soft_limit(limits):
    allow_open_files(512)
    assert limits == [4 * 512 + 512, 4096]


def test_a_hard_limit_below_is_told_before_anything_connects(limits):
    limits[1] = 2000
    with pytest.raises(UserError) as error:
        allow_open_files(512)
    assert str(error.value) == (
        "the hard limit of open files (ulimit -Hn) is 2000 here, and each of 512 ranks needs 2560; have the "
        "administrator raise it, or start fewer ranks"
    )


def test_no_limit_is_enough(limits):
    limits[:] = [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
    allow_open_files(100_000)
    assert limits == [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
