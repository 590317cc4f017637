"""How hypothesis draws its examples, and which files of tests come first."""

from hypothesis import HealthCheck, settings

# The machines that run this are shared: slowness is no failure. The same examples each time, so that a change that
# fails is the one to blame; `make unit TESTS=--hypothesis-profile=exploring` looks for new ones.
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("steady")

LONGEST_FIRST = (
    "test_cluster.py",
    "test_zero_stages.py",
    "test_networks.py",
    "test_pretrain.py",
    "test_verify_resume.py",
    "test_start.py",
    "test_chaos.py",
    "test_elastic.py",
    "test_dense.py",
    "test_finetune.py",
    "test_branch.py",
    "test_resharding.py",
    "test_stop.py",
    # of one process
    "test_training_curve.py",
    "test_stream_examples.py",
    "test_gpu.py",
    "test_onnx.py",
    "test_export.py",
    "test_detectors.py",
    "test_kernels.py",
)
"""A file is one worker's: one that takes minutes, begun last, would leave the others idle."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
