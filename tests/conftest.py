"""How hypothesis draws its examples, which files of tests begin, and where lines are counted."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The machines that run this are shared: slowness is no failure. The same examples each time, so that a change that
# fails is the one to blame; `make unit TESTS=--hypothesis-profile=exploring` looks for new ones.
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("steady")

LONG_FILES = (
    "slurm/test_cluster.py",
    "integration/test_zero_stages.py",
    "integration/test_networks.py",
    "integration/test_pretrain.py",
    "integration/test_verify_resume.py",
    "integration/test_chaos.py",
    "integration/test_start.py",
    "integration/test_elastic.py",
    "integration/test_dense.py",
    "integration/test_branch.py",
    "integration/test_study.py",
    "unit/model/test_training_curve.py",
    "unit/benchmarks/test_gpu.py",
    "unit/examples/test_stream_examples.py",
    "unit/model/test_onnx.py",
    "unit/stages/test_export.py",
    "unit/dense/test_detectors.py",
    "unit/model/kernels/test_kernels.py",
)
"""The files that take minutes: they begin, so that no process has one to itself while the others are done."""


def pytest_collection_modifyitems(items):
    """Put long files first, and leave all else as it was; count lines in quick tests alone.

    Before Python 3.12 counting takes slow tests nearly as long again as they take, mostly in calls of torch's own.
    """
    folder = Path(__file__).parent
    places = {folder / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.no_cover)
