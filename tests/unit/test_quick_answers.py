"""Help and bad input are answered before anything heavy is imported: what is loaded is looked at, not the clock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "timm", "deepspeed", "accelerate", "pydantic", "sklearn", "scipy", "pyarrow", "numba")

PROBE = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # as for a script
code = None
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    code = ended.code
heavy = sorted(set(sys.modules) & set({heavy!r}))
print("ENDED", code or 0, heavy, file=sys.stderr)
"""

DEMO = "configs/demo/pretrain.yaml"
TUNING = "configs/demo/finetune.yaml"
HELP = [[str(path.relative_to(ROOT)), "--help"] for path in sorted((ROOT / "launch").glob("[a-z]*.py"))]
REFUSED = [
    (["launch/pretrain.py", "--config", DEMO, "zero.stag=1"], "zero.stag: unknown key; did you mean zero.stage?"),
    (["launch/pretrain.py", "--config", "absent.yaml"], "absent.yaml: 1 problem\nno such file"),
    (["launch/pretrain.py", "--config", DEMO, "model.name=hornet_tiny"], "model.name: 'hornet_tiny' is not one of"),
    (["launch/pretrain.py", "--confg", DEMO], "the following arguments are required: --config"),
    (
        ["launch/finetune.py", "--config", TUNING, "data.transform.rand_augment=x"],
        "is not a RandAugment text",
    ),
    (["launch/plan.py", "--config", DEMO, "schedule.min_lr=1"], "schedule.min_lr: must lie in 0..peak_lr"),
    (["launch/evaluate.py", "absent"], "absent: 1 problem\ndoes not exist"),
    (["launch/average.py", "newest", "absent"], "absent: 1 problem\ndoes not exist"),
    (["launch/evaluate.py", "README.md"], "README.md: 1 problem\nis a text file, not weights"),
    (["launch/verify_resume.py", "--config", TUNING, "start.fro=x"], "start.fro: unknown key"),
    (["launch/scaling.py", "plan", "--config", "configs/scaling/demo.yaml", "fit.law=x"], "fit.law: unknown key"),
    (["launch/verify_resume.py", "--config", DEMO, "--steps", "3"], "--steps: must be at least 8"),
    (["launch/dense.py", "--config", "configs/demo/segmentation.yaml", "model.nme=x"], "model.nme: unknown key"),
    (["launch/export.py", "absent", "out"], "absent: 1 problem\ndoes not exist"),
    (["launch/report.py", "absent"], "absent: is not a folder; give a run directory"),
    (["launch/shards.py", "build", "absent", "out"], "absent: there is no such file or folder"),
    (
        ["launch/pretrain.py", "--config", DEMO, "run.name=none", "data.shards=absent", "evaluation.shards=absent"],
        "error: data.shards: absent/_info.json is missing: absent is not a folder of shards; make them with "
        "`python launch/shards.py build`, or describe existing tars with `python launch/shards.py index`\n"
        "error: evaluation.shards: absent/_info.json is missing",
    ),
    (
        ["launch/finetune.py", "--config", TUNING, "run.name=none", "start.from=absent"],
        "error: start.from: absent does not exist; give a run directory, a checkpoint in one or a weight file",
    ),
    (["launch/shards.py", "bench", "absent"], "absent/_info.json is missing: absent is not a folder of shards"),
]


def run(*arguments, **environment):
    command = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    ).stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", HELP, ids=lambda arguments: arguments[0])
def test_help_imports_nothing_heavy(arguments):
    assert run(*arguments).endswith("ENDED 0 []\n")


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[" ".join(arguments)[7:] for arguments, _ in REFUSED])
def test_bad_input_is_refused_before_anything_heavy_is_imported(arguments, sentence):
    answer = run(*arguments)
    assert sentence in answer
    assert answer.endswith("ENDED 2 []\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "config"),
    [("pretrain", DEMO), ("finetune", TUNING), ("dense", "configs/demo/segmentation.yaml")],
    ids=lambda word: Path(word).stem,
)
def test_an_environment_that_says_too_little_is_refused_before_too(script, config):
    answer = run(f"launch/{script}.py", "--config", config, RANK="1")
    assert "error: RANK is set to 1, but WORLD_SIZE is not: " in answer
    assert answer.endswith("ENDED 2 []\n")


def test_the_package_imports_nothing_heavy():
    code = f"import hornet, sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "[]\n", done.stderr
