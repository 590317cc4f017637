"""What tests of several rooms start from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hornet.training.process_group import open_process_group
from hornet.world import ALONE, World, publish_world
from tests.unit.shards.making import make_set


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 shards of 12 samples; only for reading."""
    return make_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def alone() -> Iterator[World]:
    """A process group of one, the same for all tests of a process: DeepSpeed keeps the first one it meets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hornet.training.process_group.publish_world", lambda world: None)
        with open_process_group(ALONE, device=torch.device("cpu")):
            yield ALONE


@pytest.fixture
def launched(alone: World) -> Iterator[World]:
    """The same, with the environment that DeepSpeed and Accelerate read."""
    before = dict(os.environ)
    publish_world(alone)
    yield alone
    os.environ.clear()
    os.environ.update(before)
