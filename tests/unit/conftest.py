"""What tests of several rooms start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hornet.training.process_group import open_process_group
from hornet.world import ALONE, World
from tests.unit.shards.making import make_set


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 shards of 12 samples; only for reading."""
    return make_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A process group of one, without touching the test's environment."""
    monkeypatch.setattr("hornet.training.process_group.publish_world", lambda world: None)
    with open_process_group(ALONE, device=torch.device("cpu")):
        yield ALONE
