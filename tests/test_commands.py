"""Every command line that docs, configs, helps and messages print is one that works: it is parsed, not run."""

import argparse
import ast
import io
import re
import shlex
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

from dense.config import TASKS, EvaluateInstancesConfig, EvaluateSegmenterConfig
from finetune.config import FinetuneConfig
from hornet.cli import COMMANDS
from hornet.cli.configs import find_stage, list_configs
from hornet.config import ConfigError, build_config, read_yaml
from hornet.overrides import apply_overrides
from hornet.stages.config import EvaluateConfig, ExportConfig
from pretrain.config import PretrainConfig
from scaling.config import read_study

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").rglob("*.yaml"))]
CODE = [
    path
    for folder in ("hornet", "pretrain", "finetune", "dense", "launch", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
NAMES = "python|deepspeed|accelerate|torchrun|make|hornet|sbatch|pip|launch/|benchmarks/"
PROGRAMS = rf"(?:\w+=\S+ )*(?:\.venv/bin/)?(?:{NAMES})"
STAGES = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "dense": TASKS["semantic"]}
DEMOS = {"finetune": "finetune", "dense": "segmentation"}
LEFT_OUT = {"docs/log.md"}  # a diary: its commands were those of their day


class Parsed(Exception):  # noqa: N818
    """Carries what a command's parser read, and ends the command there."""


def name_of(path):
    return str(path.relative_to(ROOT))


def list_lines(text, *, is_code):
    """Yield each command of a text: whole lines, then those between backticks."""
    text = re.sub(r"\s*\\\n\s*(?:#\s+)?", " ", text)
    inside = not text.startswith("#")
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        line = re.sub(r"^\s*(?:# {2,})?(?:\$ )?", "", line)
        if re.match(PROGRAMS + r"[ \w]", line) and (" " in line):
            yield re.split(r" {3,}", line)[0] if is_code else line, False
    for quoted in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        if re.match(PROGRAMS, quoted):
            yield " ".join(quoted.split()), True


def list_commands(path):
    """Yield (command, whether it stands within a sentence) of a file."""
    if path.suffix != ".py":
        text = path.read_text()
        if path.suffix == ".md":  # prose outside of blocks has commands between backticks only
            blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
            prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            yield from (found for block in blocks for found in list_lines("\n" + block, is_code=False) if not found[1])
            yield from (found for found in list_lines(prose, is_code=False) if found[1])
        else:
            yield from list_lines(text, is_code=True)
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield from list_lines("".join(parts), is_code=True)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_mention = "\n" not in node.value  # a constant, a part of a sentence
            yield from ((line, is_mention or quoted) for line, quoted in list_lines(node.value, is_code=True))


def find_problem(command, *, is_mention):
    """Return what is wrong with a command, None if nothing is."""
    if re.search(r"[|>&]|\.\.\.|…| \[", command):
        command = re.split(r"\s+(?:[|>&]|2>|\.\.\.|…|\[)", command.replace("--config ...", "--config FILE"))[0]
        is_mention = True
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # an apostrophe, a command over a line's end
        return None if is_mention else "cannot be split into words"
    words = [word.removeprefix(".venv/bin/") for word in words]
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if not words:
        return None
    if len(words) < 2 and not words[0].startswith(("launch/", "benchmarks/")):
        return None
    return find_problem_of(words, is_mention=is_mention)


def find_problem_of(words, *, is_mention):
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return None if words[1] in targets else f"no target {words[1]}"
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for group in re.findall(r"\.\[([\w,]+)\]", " ".join(words)) for name in group.split(",")]
        unknown = [name for name in named if name not in {*extras, "X"}]
        return f"no extra {unknown}" if unknown else "no index has it" if "hornet-pretrain" in " ".join(words) else None
    for place, word in enumerate(words):
        if word == "hornet" and place == 0:
            is_version = words[1][0].isdigit()  # hornet 0.2.0
            return None if is_version else parse(words[1], words[2:], is_mention=is_mention)
        if match := re.fullmatch(r"(?:\./)?launch/([a-z]\w*)\.py", word):
            return parse(match.group(1), words[place + 1 :], is_mention=is_mention)
        if word in ("-m", "--module") and (match := re.fullmatch(r"hornet\.cli\.(\w+)", words[place + 1])):
            return parse(match.group(1), words[place + 2 :], is_mention=is_mention)
        if word == "-m" and words[place + 1].startswith(("benchmarks.", "tests.")):
            module = ROOT / words[place + 1].replace(".", "/")
            return None if module.with_suffix(".py").exists() or module.is_dir() else f"no {words[place + 1]}"
        if word.startswith(("launch/", "benchmarks/")):
            path = re.sub(r"[:,]$", "", word).partition("*")[0]
            return None if (ROOT / path).exists() else f"no file {path}"
    return None


def parse(name, words, *, is_mention):
    """Read the words as the command does, then what its config would be."""
    name = name.replace("_", "-")
    if name.isupper():  # COMMAND, or what an f-string puts there
        return None
    if name not in COMMANDS:
        return f"no command {name}"
    originals = {which: getattr(argparse.ArgumentParser, which) for which in ("parse_args", "parse_intermixed_args")}

    def reading(which):
        def read(self, arguments=None, namespace=None):
            raise Parsed(originals[which](self, words))

        return read

    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors), redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", [name])
        for which in originals:
            patch.setattr(argparse.ArgumentParser, which, reading(which))
        patch.setattr("hornet.signals.catch_signals", lambda: None)
        module = import_module(f"hornet.cli.{COMMANDS[name].module}")
        patch.setattr(module, "catch_signals", lambda: None, raising=False)
        try:
            module.main()
        except Parsed as parsed:
            return find_config_problem(name, parsed.args[0])
        except SystemExit:
            problem = errors.getvalue().splitlines()[-1] if errors.getvalue() else ""
            is_complete = "--help" in words or "-h" in words
            is_excused = is_mention and "arguments are required" in problem
            return None if is_complete or is_excused else problem
    return "read no options"


def find_config_problem(name, options):
    path = getattr(options, "config", None)
    if name == "export":
        values = {"source": "X", "output": "Y", "image_size": "32"}
        problems = apply_overrides(values, [word for word in options.overrides if "=" in word])
        try:
            build_config(ExportConfig, values, source=name)
        except ConfigError as error:
            problems += error.problems
        return "; ".join(problems) or None
    if path is None and name != "evaluate":
        return None
    if name == "scaling":
        try:
            read_study(
                ROOT / path if (ROOT / path).is_file() else ROOT / "configs/scaling/demo.yaml", options.overrides
            )
        except ConfigError as error:
            return str(error)
        return None
    is_dense = name == "evaluate" and "dense" in Path(options.source).parts  # else it would be asked for its run
    of_dense = EvaluateInstancesConfig if "rcnn" in str(getattr(options, "source", "")) else EvaluateSegmenterConfig
    base = of_dense if is_dense else EvaluateConfig if name == "evaluate" else STAGES.get(name)
    values = {"source": "X"}
    if path is not None:
        file = ROOT / path
        shipped = str(path).removeprefix("hornet:") in list_configs()
        if file.is_file() or shipped:
            values = read_yaml(file if file.is_file() else ROOT / "configs" / str(path).removeprefix("hornet:"))
        elif str(path).startswith(("configs/", "hornet:")) and "NAME" not in str(path):
            return f"no config {path}"
        else:  # FILE, my.yaml: the keys are those of any config
            values = read_yaml(ROOT / f"configs/demo/{DEMOS.get(name, 'pretrain')}.yaml")
    if find_stage(values) == "dense":
        base = TASKS[values.get("task", "semantic")]
    base = base or (FinetuneConfig if "start" in values else PretrainConfig)
    problems = apply_overrides(values, [word for word in options.overrides if "=" in word])
    try:
        if name != "evaluate" or "evaluation" in values:
            build_config(base, values, source=name)
    except ConfigError as error:
        problems += [text for text in error.problems if name != "evaluate" or "unknown" in text]
    return "; ".join(problems) or None


@pytest.mark.slow
@pytest.mark.parametrize("path", [*TEXTS, *CODE], ids=name_of)
def test_every_command_that_is_printed_works(path):
    if name_of(path) in LEFT_OUT:
        return
    found = [(command, find_problem(command, is_mention=is_mention)) for command, is_mention in list_commands(path)]
    assert not [f"{command}: {problem}" for command, problem in found if problem]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("python launch/shards.py index", None),
        ("python launch/shards.py indx x", "invalid choice"),
        ("deepspeed launch/pretrain.py --config configs/pretrain/none.yaml", "no config configs/pretrain/none.yaml"),
        ("deepspeed launch/pretrain.py --config configs/demo/pretrain.yaml run.nme=x", "run.nme: unknown key"),
        ("hornet plan --config demo/pretrain.yaml --gpus none", "invalid int value"),
        ("hornet plam --config demo/pretrain.yaml", "no command plam"),
        ("pip install 'hornet-pretrain[remote]'", "no index has it"),
        ("make tests", "no target tests"),
        ("launch/slurm/submit_.sh pretrain X", "no file launch/slurm/submit_.sh"),
    ],
)
def test_a_wrong_command_would_be_found(command, problem):
    assert (problem or "None") in str(find_problem(command, is_mention=problem is None))


@pytest.mark.slow
def test_commands_are_found_where_they_stand():
    counts = {name_of(path): len(list(list_commands(path))) for path in [*TEXTS, *CODE]}
    assert counts["README.md"] >= 8
    assert counts["docs/data.md"] >= 10
    assert counts["configs/demo/pretrain.yaml"] == 1
    assert counts["hornet/cli/plan.py"] >= 3
    assert counts["hornet/shards/manifest.py"] >= 2
