"""`hornet COMMAND`: which there are, what a wrong one says, what is said of a library that is not installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hornet.cli
from hornet.cli import COMMANDS, main
from hornet.cli.missing import explain_missing, list_requirements

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [
    "torch>=2.11",
    'isal>=1.6; extra == "shards"',
    'hornet-pretrain[shards]; extra == "train"',
    'deepspeed<0.20,>=0.19.8; extra == "train"',
]


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrian"], "error: pretrian: no such command; did you mean pretrain?"),
        (["verify_resum"], "did you mean verify-resume?"),
        (["x"], "error: x: no such command; known are shards, plan, pretrain"),
    ],
)
def test_an_unknown_command_names_the_nearest(words, sentence, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert sentence in capsys.readouterr().err


def test_asking_for_a_command_that_is_not_there_imports_nothing_slow():
    code = (
        "import sys; from hornet.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"'torch'", "'numpy'", "'pydantic'"} & set(done.stdout.replace(",", "").replace("[", "").split())


def test_every_command_has_its_file_and_its_module_and_its_extra():
    scripts = {path.stem.replace("_", "-") for path in (ROOT / "launch").glob("[!_]*.py")}
    assert scripts == COMMANDS.keys() - {"configs"}
    for command in COMMANDS.values():
        assert (ROOT / "hornet/cli" / f"{command.module}.py").exists()
        assert command.extra in PROJECT["optional-dependencies"]
    assert PROJECT["scripts"] == {"hornet": "hornet.cli:main"}


def test_an_extra_asks_for_the_base_for_itself_and_for_what_it_names():
    assert list(list_requirements(DECLARED, "train")) == ["torch>=2.11", "isal>=1.6", "deepspeed<0.20,>=0.19.8"]
    assert list(list_requirements(DECLARED, "shards")) == ["torch>=2.11", "isal>=1.6"]


def test_what_is_missing_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("hornet.cli.missing._read_declared", lambda: DECLARED)
    monkeypatch.setattr("hornet.cli.missing._is_installed", lambda text: text.startswith("torch"))
    assert explain_missing("deepspeed.runtime", command="pretrain", extra="train") == (
        "hornet pretrain needs what is not installed (isal, deepspeed); run `pip install 'isal>=1.6' "
        "'deepspeed<0.20,>=0.19.8'`, or `pip install '.[train]'` in the repository"
    )


def test_without_an_installation_the_repository_is_named(monkeypatch):
    monkeypatch.setattr("hornet.cli.missing._read_declared", list)
    assert explain_missing("isal", command="shards", extra="shards") == (
        "hornet shards needs isal, which is not installed; run `pip install '.[shards]'` in the repository, or install "
        "isal by itself"
    )


def test_a_module_of_ours_that_is_missing_keeps_its_traceback():
    for package in ("hornet", "pretrain", "finetune", "dense", "scaling"):
        assert explain_missing(f"{package}.nowhere", command="plan", extra="train") is None


def test_a_command_without_its_library_ends_with_the_sentence(monkeypatch, capsys):
    def fail(name):
        raise ModuleNotFoundError("No module named 'isal'", name="isal")

    monkeypatch.setattr(hornet.cli, "import_module", fail)
    monkeypatch.setattr("hornet.cli.missing._read_declared", list)
    with pytest.raises(SystemExit, match="2"):
        main(["shards"])
    assert "error: hornet shards needs isal, which is not installed" in capsys.readouterr().err
