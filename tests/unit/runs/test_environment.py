"""environment.json: what a run was made with."""

from importlib.metadata import PackageNotFoundError, version

from hornet.runs import directory
from hornet.runs.directory import describe_environment
from hornet.world import ALONE


def test_a_library_that_is_not_installed_is_recorded_as_null(monkeypatch):
    def find(name):
        if name == "webdataset":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(directory, "version", find)
    libraries = describe_environment(ALONE)["libraries"]
    assert libraries["webdataset"] is None
    assert libraries["torch"] == version("torch")
