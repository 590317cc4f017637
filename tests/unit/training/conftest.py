import pytest
import torch

from hornet.training.process_group import open_process_group
from hornet.world import ALONE


@pytest.fixture
def alone(monkeypatch):
    """A process group of one, without touching the test's environment."""
    monkeypatch.setattr("hornet.training.process_group.publish_world", lambda world: None)
    with open_process_group(ALONE, device=torch.device("cpu")):
        yield ALONE
