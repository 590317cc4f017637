"""The wheel and the source distribution, built and installed as a user does, beside no checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from hornet.cli.missing import list_requirements
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
FORWARD = """
import hornet, timm, torch
model = timm.create_model("hornet_atto_gf", num_classes=7).eval()
print(hornet.__file__, tuple(model(torch.zeros(2, 3, 64, 64)).shape))
"""
BLOCKED = """
import sys
class Without:  # a library that is not there is not found, and raises nothing where it is only asked after
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
DECODERS = """
import runpy, sys, timm, torch, hornet
classifier = timm.create_model("hornet_atto_gf", num_classes=7)
torch.save({"model": classifier.state_dict()}, "weights.pth")
sys.argv[1:] = ["weights.pth"]
names = runpy.run_path(sys.argv[0], run_name="__main__")
name = "stages.0.0.pwconv1.weight"
[backbone] = (module for module in names["network"].modules() if isinstance(module, names["HorNet"]))
assert torch.equal(backbone.get_parameter(name), classifier.get_parameter(name))
"""
SHARDS = """
import sys
from hornet.cli import main
for words in ("build images set --workers 1", "verify set", "info set"):
    main(["shards", *words.split()])
assert "torch" not in sys.modules
"""


def run(*words, cwd, check=True, **environment):
    """Run a program without this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env={**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def build(kind, *, source, output, **environment):
    """Build a distribution of `source` with this environment's setuptools; return its file."""
    done = run(sys.executable, "-c", BUILD, f"build_{kind}", output, cwd=source, **environment)
    return output / done.stdout.splitlines()[-1]


def install(wheel, folder):
    """Make an environment with nothing but the wheel; return its folder of packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    return next(folder.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What git would check out of what is packaged."""
    folder = tmp_path_factory.mktemp("source")
    leave_out = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for name in ("hornet", "pretrain", "finetune", "dense", "scaling", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=leave_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def environment(source, tmp_path_factory):
    """The wheel of the checkout, built without a compiler, and installed beside this environment's libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build("wheel", source=source, output=folder, CC="/bin/false")
    packages = install(wheel, folder / "environment")
    # Not sitecustomize or a second venv: a line in a .pth brings the libraries, but not their own .pth, and so not the
    # editable installation of this checkout.
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "environment"


def test_without_a_compiler_commands_configs_and_types_are_there(environment, tmp_path):
    hornet = environment / "bin/hornet"
    assert "usage: hornet COMMAND" in run(hornet, "--help", cwd=tmp_path).stdout
    assert len(run(hornet, "configs", cwd=tmp_path).stdout.splitlines()) == len(list(ROOT.glob("configs/*/*.yaml")))
    packages = next(environment.glob("lib/python*/site-packages"))
    assert not list(packages.rglob("jpeg_region*.so"))
    assert all(
        (packages / name / "py.typed").exists() for name in ("hornet", "pretrain", "finetune", "dense", "scaling")
    )
    assert not [name for name in ("tests", "launch", "benchmarks", "configs") if (packages / name).exists()]


def test_a_run_is_planned_from_a_config_that_came_with_it(environment, tmp_path):
    words = ["plan", "--config", "demo/pretrain.yaml", "--samples", "1442", "--classes", "10", "--gpus", "2", "--json"]
    done = run(environment / "bin/hornet", *words, "--mfu", "0.1", cwd=tmp_path)
    assert json.loads(done.stdout)["basis"]["num_steps"] == 12 * (1442 // 64)


def test_a_command_whose_libraries_are_missing_says_how_to_install_them(environment, source, tmp_path):
    packages = install(next(environment.parent.glob("*.whl")), tmp_path / "bare")
    libraries = Path(sysconfig.get_paths()["purelib"])
    (packages / "wrapt").symlink_to(libraries / "wrapt")
    done = run(tmp_path / "bare/bin/hornet", "pretrain", "--help", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: hornet pretrain needs what is not installed \(.*deepspeed.*\); run `pip install .*'deepspeed.*0\.19\.8"
        r".*`, or `pip install '\.\[train\]'` in the repository\n",
        done.stderr,
    )


def test_the_source_distribution_makes_the_same_package(source, tmp_path):
    archive = build("sdist", source=source, output=tmp_path)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    packages = install(build("wheel", source=unpacked, output=tmp_path), tmp_path / "environment")
    files = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.suffix != ".pyc"}
    for folder in ("hornet", "pretrain", "finetune", "dense", "scaling"):
        wanted = [path for path in (source / folder).rglob("*") if path.suffix in (".py", ".typed")]
        assert {str(path.relative_to(source)) for path in wanted} <= files
    assert {f"hornet/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/*/*.yaml")} <= files
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    said = run(tmp_path / "environment/bin/python", "-c", FORWARD, cwd=tmp_path).stdout
    assert said == f"{packages}/hornet/__init__.py (2, 7)\n"


def list_blocked(extra):
    """Return the modules of this environment that an installation with `extra` (None: the base) need not have."""
    declared = PROJECT["dependencies"] + [
        f'{text}; extra == "{name}"' for name, texts in PROJECT["optional-dependencies"].items() for text in texts
    ]
    given = {canonical(text) for text in list_requirements(declared, extra or "none")}
    waiting = list(given)
    while waiting:
        try:
            needed = requires(waiting.pop()) or []
        except PackageNotFoundError:  # of another platform
            continue
        found = {canonical(text) for text in needed if "extra ==" not in text}
        waiting += found - given
        given |= found
    optional = {canonical(text) for text in list_requirements(declared, "dev")} - given
    owners = packages_distributions()
    return {module for module in owners if {canonical(owner) for owner in owners[module]} & optional}


def canonical(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def test_the_model_needs_nothing_but_the_base(tmp_path):
    blocked = list_blocked(None)
    assert {"deepspeed", "accelerate", "isal", "numba", "webdataset", "psutil", "fsspec"} - blocked == {
        "fsspec"  # torch asks for it
    }
    code = BLOCKED.format(blocked=blocked) + FORWARD
    assert "(2, 7)" in run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)).stdout


def test_the_decoders_example_reads_weights_with_its_extra(tmp_path):
    blocked = list_blocked("decoders")
    assert {"psutil", "isal", "deepspeed"} <= blocked
    code = BLOCKED.format(blocked=blocked) + f"sys.argv = [{str(ROOT / 'examples/other_decoders.py')!r}]\n" + DECODERS
    run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_sets_are_made_and_checked_with_the_shards_extra_and_without_torch(tmp_path):
    from PIL import Image

    for number in range(4):
        path = tmp_path / f"images/class_{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 40, 0, 0)).save(path)
    blocked = list_blocked("shards") | {"torch", "timm", "torchvision"}
    code = BLOCKED.format(blocked=blocked) + SHARDS
    said = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)).stdout
    assert "4" in said
    assert "no errors" in said or "0 errors" in said
