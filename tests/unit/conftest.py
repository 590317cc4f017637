from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.shards.making import make_set


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 shards of 12 samples; only for reading."""
    return make_set(tmp_path_factory.mktemp("toy"))
