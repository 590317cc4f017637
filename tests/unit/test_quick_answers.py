"""Help and bad input are answered before anything heavy is imported: what is loaded is looked at, not the clock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornet.config import load_config
from hornet.runs.begun import write_config
from pretrain.config import PretrainConfig
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
FILES = sorted([*(ROOT / "launch").glob("[a-z]*.py"), *(ROOT / "launch/slurm").glob("*.py")])
HELP = [[str(path.relative_to(ROOT)), "--help"] for path in FILES]
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
        f"{DEMO}: 2 problems\n"
        "data.shards: absent/_info.json is missing: absent is not a folder of shards; make them with "
        "`python launch/shards.py build`, or describe existing tars with `python launch/shards.py index`\n"
        "evaluation.shards: absent/_info.json is missing",
    ),
    (
        ["launch/finetune.py", "--config", TUNING, "run.name=none", "start.from=absent"],
        "\nstart.from: absent does not exist; give a run directory, a checkpoint in one or a weight file",
    ),
    (["launch/shards.py", "bench", "absent"], "absent/_info.json is missing: absent is not a folder of shards"),
    (["launch/plan.py", "--config", DEMO, "data.shards=absent"], "error: data.shards: absent is not here, and no set"),
    (
        ["launch/verify_resume.py", "--config", DEMO, "data.shards=absent"],
        f"{DEMO}: 1 problem\ndata.shards: absent/_info.json is missing",
    ),
    (["launch/slurm/rehearse.py", "--config", DEMO], "the following arguments are required: --ranks"),
    (["launch/slurm/rehearse.py", "--config", DEMO, "--ranks", "2", "zero.stag=1"], "zero.stag: unknown key"),
]
STARTED = [
    (["data.split=trian"], "data.split: {set}/_info.json: there is no split 'trian'; the set has: train"),
    (["evaluation.split=trian"], "evaluation.split: {set}/_info.json: there is no split 'trian'; the set has: train"),
    (["global_batch_size=10", "micro_batch_size=4"], "global_batch_size 10 over 1 ranks leaves 10 images a rank"),
    (["global_batch_size=4096", "micro_batch_size=1"], "global_batch_size 4096 is more than the split's 48 samples"),
    (["model.module=notthere"], "model.module: there is no module 'notthere' in "),
    (["micro_batch_size=0"], "micro_batch_size: must be at least 1, not 0"),
]
"""Of a run whose set is there."""


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


@pytest.fixture
def words(toy_set, tmp_path):
    """`key=value` with which the demo's run could start here."""
    sets = [f"data.shards={toy_set}", f"evaluation.shards={toy_set}", "evaluation.split=train"]
    return [*sets, f"run.root={tmp_path}", "run.name=x", "global_batch_size=8", "micro_batch_size=4"]


@pytest.fixture
def begun(words, tmp_path):
    """The directory of a run that was begun so."""
    (tmp_path / "x").mkdir()
    write_config(tmp_path / "x", load_config(PretrainConfig, path=ROOT / DEMO, overrides=words))
    return tmp_path / "x"


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "sentence"), STARTED, ids=[" ".join(wrong) for wrong, _ in STARTED])
def test_what_a_set_has_not_is_refused_before_too(words, toy_set, wrong, sentence):
    answer = run("launch/pretrain.py", "--config", DEMO, *words, *wrong)
    assert f"{DEMO}: 1 problem\n{sentence.format(set=toy_set)}" in answer
    assert answer.endswith("ENDED 2 []\n")


@pytest.mark.slow
def test_a_finished_run_that_is_asked_to_be_another_is_refused_before_too(words, begun):
    (begun / "summary.json").write_text("{}")
    answer = run("launch/pretrain.py", "--config", DEMO, *words, "schedule.peak_lr=0.1")
    assert f"{begun}: this run was started with another config:\n  schedule.peak_lr: 0.002 -> 0.1\n" in answer
    assert answer.endswith("ENDED 2 []\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("evaluation.shards=nothere", "{run}: 1 problem\nevaluation.shards: nothere/_info.json is missing: "),
        ("evaluation.split=foo", "{run}: 1 problem\nevaluation.split: {set}/_info.json: there is no split 'foo'"),
    ],
)
def test_an_evaluation_on_what_is_not_there_is_refused_before_too(begun, toy_set, wrong, sentence):
    answer = run("launch/evaluate.py", str(begun), wrong)
    assert sentence.format(run=begun, set=toy_set) in answer
    assert answer.endswith("ENDED 2 []\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "config"),
    [("pretrain", DEMO), ("finetune", TUNING), ("dense", "configs/demo/segmentation.yaml")],
    ids=lambda word: Path(word).stem,
)
def test_an_environment_that_says_too_little_is_refused_before_too(script, config):
    answer = run(f"launch/{script}.py", "--config", config, RANK="1")
    assert "environment: RANK is set to 1, but WORLD_SIZE is not: " in answer
    assert answer.endswith("ENDED 2 []\n")


def test_the_package_imports_nothing_heavy():
    code = f"import hornet, sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "[]\n", done.stderr
