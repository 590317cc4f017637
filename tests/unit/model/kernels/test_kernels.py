"""Our kernels under Triton's interpreter, and who gets to use them."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from hornet.errors import UserError
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from tests.patience import PATIENCE
from tests.unit.model.small_model import build_small

ROOT = Path(__file__).parents[4]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_agree_with_float64_under_the_interpreter():
    """In a process of its own: Triton decides at the import of a kernel whether it compiles or interprets."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-x",
            str(Path(__file__).with_name("interpreted.py")),
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_fused_without_a_cuda_device_is_the_users_error():
    with pytest.raises(
        UserError, match=r"kernels is 'fused', which needs a CUDA device.*has no CUDA device: use 'plain'"
    ):
        build_model(ModelConfig(name="hornet_atto_7x7", kernels="fused"), num_classes=2, image_size=32, seed=0)


def test_plain_is_the_default():
    model = build_model(ModelConfig(name="hornet_atto_7x7"), num_classes=2, image_size=32, seed=0)
    assert not any(block.gnconv.is_fused for stage in model.stages for block in stage)


def test_fused_reaches_the_7x7_stages_and_changes_no_name(monkeypatch):
    monkeypatch.setattr("hornet.model.gnconv.require_kernels", lambda: None)
    model = build_small()
    before = list(model.state_dict())
    model.use_kernels("fused")
    assert [stage[0].gnconv.is_fused for stage in model.stages] == [True, True, False, False]
    assert list(model.state_dict()) == before
    model.use_kernels("plain")
    assert not any(stage[0].gnconv.is_fused for stage in model.stages)
