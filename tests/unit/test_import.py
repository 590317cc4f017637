"""What importing the package costs, and what it does when timm comes."""

import subprocess
import sys

import pytest

from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import hornet.shards.build.build, hornet.shards.check.verify, hornet.shards.views.subset, hornet.pages.set.page
heavy = {"torch", "timm", "torchvision", "webdataset"} & set(sys.modules)
assert not heavy, heavy
import timm
assert "hornet_large_gf" in timm.list_models("hornet*")
"""


def test_making_shards_needs_no_torch_and_the_models_are_registered_when_timm_comes():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_a_part_of_the_model_may_come_first():
    """timm is met in the middle of the import, and its hook wants the module that is half loaded."""
    code = (
        "import hornet.model.hornet as part, timm; assert timm.create_model('hornet_atto_gf').__class__ is part.HorNet"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
