from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.unit.data.making import make_set

# The machines that run this are shared: slowness is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 shards of 12 samples; only for reading."""
    return make_set(tmp_path_factory.mktemp("toy"))
