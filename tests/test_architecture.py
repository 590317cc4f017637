"""What keeps the house in order, beyond the import contracts."""

import ast
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import LONG_FILES

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("hornet", "pretrain", "finetune", "dense", "scaling", "launch")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
ROOMS = (*FOLDERS, "configs", "benchmarks", "examples", "tests", "docs")
DIARY = ROOT / "docs/log.md"  # its files were those of their day
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*(ROOT / "docs").glob("*.md")} - {DIARY})]
SCRIPTS = sorted((ROOT / "launch").glob("[!_]*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_script_helps_from_any_folder(path, tmp_path):
    """As a script, launch/pretrain.py must not find itself when it imports pretrain."""
    done = subprocess.run([sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


MAY_BE_LARGE = {
    "hornet/config.py",  # one subject: from YAML to dataclass and back, and what is said on the way
    "hornet/drills/rehearsal.py: rehearse",  # its steps, in order
    "hornet/model/hornet.py",  # one class: what timm asks of a network stands in it
    "hornet/training/session.py: _train_from",  # puts the parts of an attempt together, one line each
}
"""Files over 300 lines and functions over 60 that read better whole. A guide: add to it what does, with the reason."""


@pytest.mark.slow
def test_files_and_functions_are_small_or_large_on_purpose():
    large = set()
    for path in SOURCES:
        text = path.read_text()
        large |= {name_of(path)} if len(text.splitlines()) > 300 else set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                large.add(f"{name_of(path)}: {node.name}")
    assert large == MAY_BE_LARGE, "divide what is new here, or list it; take out what is small again"


def test_no_attics():
    attics = re.compile(r"(utils?|helpers?|common|misc|core)\.py")
    assert not [path for path in SOURCES if attics.fullmatch(path.name)]


FILLING = re.compile(r"\b(an?|and|are|as|each|for|in|is|its?|of|return|s|that|the|their|this|to|what|which)\b")


def split_words(name):
    """`num_images`, `SplitSurvey` and sentences alike: what is no filling, in lower case, without a plural's s."""
    spaced = re.sub(r"(?<=[a-z])([A-Z])", r" \1", name.replace("_", " ")).lower()
    words = re.findall(r"[a-z0-9]+", FILLING.sub(" ", spaced))
    return {word if word.endswith("ss") else word.removesuffix("s") for word in words}


def list_docstrings(node):
    """Yield (name, docstring) of classes, functions and fields below a node; a field's name has its class's before."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner):
            yield inner.name, ast.get_docstring(inner)
        if isinstance(inner, ast.ClassDef):
            for field, text in pairwise(inner.body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    yield f"{inner.name} {field.target.id}", ast.literal_eval(text.value)


def repeats(name, docstring):
    return split_words(docstring) <= split_words(name)


@pytest.mark.slow
def test_no_docstring_is_a_name_once_more():
    """One that says nothing is filled or goes: a shape, a unit, a range, what it is for."""
    assert repeats("Split name", "The split's name.")
    assert not repeats("Split shard_bytes", "Size of each tar in bytes.")
    found = [(name_of(path), *each) for path in SOURCES for each in list_docstrings(ast.parse(path.read_text()))]
    assert len(found) > 3000
    assert not [each for each in found if repeats(*each[1:])]


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        (
            r"^\s*(import|from) deepspeed",
            {"hornet/training/engines/deepspeed.py", "hornet/training/engines/deepspeed_private.py"},
        ),
        (r"^\s*(import|from) accelerate", {"hornet/training/engines/accelerate.py"}),
        (
            r"os\.environ",
            {"hornet/world.py", "hornet/field_types.py", "hornet/cli/demo_processes.py"},
        ),  # $NAME in a path
        (r"^\s*(import|from) (yaml|pydantic)", {"hornet/yaml_text.py"}),
        # A checkout's own code; networks of the user's beside the command; a child has its parent's.
        (r"sys\.path", {"launch/_checkout.py", "hornet/model/own_module.py", "hornet/data/prefetch.py"}),
        (r"pickle\.load|weights_only=False|(?<![.\w])eval\(", set()),
        (r"shell=True", {"hornet/shards/remote/download.py"}),  # the config's own `remote.command`, if it has one
    ],
)
def test_what_only_one_room_may_do(pattern, allowed):
    found = {name_of(path) for path in SOURCES if re.search(pattern, path.read_text(), re.MULTILINE)}
    assert found <= allowed


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_files_that_texts_name_are_there(path):
    """Each path in backticks that begins with a folder of the checkout; a config may go by its name."""
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*\w)/?`", path.read_text())
    assert not [name for name in named if not (ROOT / name).exists() and not (ROOT / f"configs/{name}.yaml").exists()]


def test_the_files_that_begin_are_there():
    assert not [name for name in LONG_FILES if not (ROOT / "tests" / name).is_file()]


def test_the_lock_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = re.findall(r"^[\w.-]+==", lock, re.MULTILINE)
    assert len(pinned) > 50
    assert lock.count("--hash=sha256:") >= len(pinned)
