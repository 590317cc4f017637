"""From a study to its cells: every combination of a group's lists as an ordinary config. Starts and writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config import FinetuneConfig
from hornet.config import ConfigError, build_config, read_settings
from hornet.errors import UserError
from hornet.stages.config import StageConfig
from hornet.stages.run_digest import digest_parts
from pretrain.config import PretrainConfig
from scaling.cells import Cell, count_steps, name_kind
from scaling.config import Study
from scaling.groups import GroupConfig
from scaling.shares import SetFacts, Share, find_facts, name_share
from scaling.trunk import graft, list_trunks, plant

FindBase = Callable[[Path], Path]

RESERVED = {
    "run.name": "the study names its runs",
    "run.root": "study.root says it",
    "run.seed": "list `seeds`",
    "start.from": "`from` names the group",
}
"""What overrides may not set, and what does."""


def expand(study: Study, *, find_base: FindBase = Path) -> list[Cell]:
    """Return all cells, those that share a run pointing to it; raises ConfigError with all that is wrong."""
    cells: list[Cell] = []
    problems: list[str] = []
    for is_finetuning in (False, True):
        for name, group in study.groups.items():
            if (group.from_ is not None) == is_finetuning:
                cells += _expand_group(study, name, group, cells, problems, find_base)
        cells = _share_runs(cells, study.folder)  # before finetunings ask where their parents are
    cells = graft(cells, study.folder)
    problems += _find_contradictions(cells)
    if problems:
        raise ConfigError(str(study.path), list(dict.fromkeys(problems)))
    order = list(study.groups)
    return sorted(cells, key=lambda cell: order.index(cell.group))


def require_sets(cells: Sequence[Cell]) -> None:
    """Raise UserError if a set is missing that runs need."""
    missing = {
        str(data.shards)
        for cell in cells
        if cell.digest is None
        for data, facts in ((cell.config.data, cell.train), (cell.config.evaluation, cell.evaluation))
        if data is not None and facts is not None and facts.fingerprint is None
    }
    if missing:
        raise UserError("\n".join(f"{place}: there is no set of shards; build it first" for place in sorted(missing)))


def _expand_group(
    study: Study, name: str, group: GroupConfig, before: Sequence[Cell], problems: list[str], find_base: FindBase
) -> list[Cell]:
    """Return a group's cells, and add to `problems` why one cannot be."""
    parents: Sequence[Cell | None] = [None]
    if group.from_ is not None:
        parents = [cell for cell in before if cell.group == group.from_ and _is_chosen(cell, group)]
        if not parents and not any(problem.startswith(f"groups.{group.from_}:") for problem in problems):
            problems.append(f"groups.{name}: none of {group.from_}'s runs has what its lists name, so it has no runs")
    cells = []
    for parent in parents:
        for combination in _combine(group, parent):
            try:
                cells.append(_make_cell(study, name, group, parent, combination, find_base))
            except ConfigError as error:
                problems += [f"groups.{name}: {problem}" for problem in error.problems]
            except UserError as error:
                problems.append(f"groups.{name}: {error}")
    if group.trunk:
        try:
            return plant(cells)
        except UserError as error:
            problems.append(f"groups.{name}.{error}")
    return cells


@dataclass(frozen=True, kw_only=True)
class _Combination:
    """One of each list."""

    family: str
    size: str
    fraction: float
    seed: int
    epochs: float | None
    images_seen: int | None
    key: str
    tried: str | None = None


def _is_chosen(cell: Cell, group: GroupConfig) -> bool:
    asked = ((group.families, cell.family), (group.sizes, cell.size), (group.fractions, cell.fraction))
    return all(axis is None or value in axis for axis, value in (*asked, (group.seeds, cell.seed)))


def _combine(group: GroupConfig, parent: Cell | None) -> Iterator[_Combination]:
    lengths: list[tuple[float | None, int | None, str]] = [(None, None, "")]
    if group.epochs is not None:
        lengths = [(each, None, f"_e{each:g}") for each in group.epochs]
    if group.images_seen is not None:
        lengths = [(None, each, f"_i{each}") for each in group.images_seen]
    if parent is not None:
        stem = parent.key.rpartition("_s")[0]
        for epochs, images, text in lengths:
            yield _Combination(
                family=parent.family, size=parent.size, fraction=parent.fraction, seed=parent.seed,
                epochs=epochs, images_seen=images, key=f"{stem}{text}_s{parent.seed}",
            )  # fmt: skip
        return
    shares = list(itertools.product(group.fractions or (1.0,), lengths))
    if group.images_by_fraction is not None:
        pairs = zip(group.fractions or (), group.images_by_fraction, strict=True)
        shares = [(fraction, (None, images, f"_i{images}")) for fraction, images in pairs]
    axes = (group.families or ("",), group.sizes or ("",), shares, group.pilot or (None,), group.seeds or (0,))
    for family, size, (fraction, (epochs, images, text)), tried, seed in itertools.product(*axes):
        share = "" if group.fractions is None else f"_f{fraction:g}"
        trial = "" if tried is None else "_" + tried.replace("=", "")
        yield _Combination(
            family=family, size=size, fraction=fraction, seed=seed, tried=tried,
            epochs=epochs, images_seen=images, key=f"{name_kind(family, size)}{share}{text}{trial}_s{seed}",
        )  # fmt: skip


def _make_cell(
    study: Study, name: str, group: GroupConfig, parent: Cell | None, at: _Combination, find_base: FindBase
) -> Cell:
    values, problems = _read_base(study, group, at, find_base)
    path = _fill(group.base, at)
    if ("start" in values) != (parent is not None):
        kind, remedy = ("finetuning", "name the pretrainings' group with `from`")
        if parent is not None:
            kind, remedy = ("pretraining", "leave `from` out")
        raise ConfigError(path, [*problems, f"{path}: is the config of a {kind}; {remedy}"])
    _put(values, "run.root", study.folder)
    _put(values, "run.name", f"{name}/{at.key}")
    _put(values, "run.seed", at.seed)
    share = _choose_set(study, values, at if parent is None else None)
    if parent is not None:
        _put(values, "start.from", study.folder / parent.run)
    config = _build(values, parent=parent, source=path, problems=problems)
    facts = find_facts(config.data, fraction=at.fraction if share is not None and not share.is_here else 1.0)
    _set_length(values, group, at, count_steps(facts.num_samples, config), config)
    if count_steps(facts.num_samples, config) < 1:
        raise UserError(
            f"{at.fraction:g} of {share.source if share else config.data.shards} is {facts.num_samples} images, fewer "
            f"than one global batch ({config.global_batch_size}); use a larger share or a smaller global_batch_size"
        )
    config = _build(values, parent=parent, source=path, problems=problems)
    evaluation = None if config.evaluation is None else find_facts(config.evaluation)
    if evaluation is None and all(other.from_ != name for other in study.groups.values()):
        raise UserError(f"{path}: has no evaluation, so nothing would be measured; give evaluation.shards")
    return Cell(
        group=name,
        key=at.key,
        stage="finetune" if parent is not None else "pretrain",
        family=at.family,
        size=at.size,
        fraction=at.fraction,
        seed=at.seed,
        config=config,
        train=facts,
        evaluation=evaluation,
        digest=_digest(config, facts, evaluation, parent),
        parent=None if parent is None else parent.name,
        is_held_out=group.predict_first,
        tried=at.tried,
        run=f"{name}/{at.key}",
        share=share,
    )


def _read_base(
    study: Study, group: GroupConfig, at: _Combination, find_base: FindBase
) -> tuple[dict[str, Any], list[str]]:
    mine = [text for name in (at.family, at.size, f"{at.family}-{at.size}") for text in study.per.get(name, ())]
    overrides = [_fill(text, at) for text in (*group.overrides, *mine, *((at.tried,) if at.tried else ()))]
    refused = [
        f"{text.partition('=')[0]}: may not be overridden; {RESERVED[text.partition('=')[0]]}"
        for text in overrides
        if text.partition("=")[0] in RESERVED
    ]
    values, problems = read_settings(find_base(Path(_fill(group.base, at))), overrides)
    return values, [*problems, *refused]


def _fill(text: str, at: _Combination) -> str:
    """Put the run's family and size into a text of the study's."""
    return text.replace("{family}", at.family).replace("{size}", at.size)


def _choose_set(study: Study, values: dict[str, Any], at: _Combination | None) -> Share | None:
    """Set what a run trains and is measured on; `at` is None for what trains on the whole set."""
    wanted = study.config.data
    if wanted.source is not None:
        _put(values, "data.shards", wanted.source)
        if isinstance(values.get("evaluation"), dict):
            _put(values, "evaluation.shards", wanted.source)
    if at is None or at.fraction == 1.0:
        return None
    source = wanted.source or Path(str((values.get("data") or {}).get("shards", "")))
    share = name_share(source, at.fraction, seed=wanted.seed, beside=wanted.folder)
    if share.is_here:
        _put(values, "data.shards", share.folder)
    return share


def _set_length(
    values: dict[str, Any], group: GroupConfig, at: _Combination, steps_per_epoch: float, config: StageConfig
) -> None:
    def count_epochs(epochs: float | None, images_seen: int | None) -> float | None:
        if images_seen is None or not steps_per_epoch:
            return epochs
        return max(1, round(images_seen / config.global_batch_size)) / steps_per_epoch

    epochs = count_epochs(at.epochs, at.images_seen)
    if epochs is not None:
        _put(values, "schedule.num_epochs", epochs)
    if group.warmup_share is not None:
        if group.trunk:  # a part of what all lengths share, so the same number for all of them
            epochs = count_epochs(min(group.epochs or (0,)), min(group.images_seen) if group.images_seen else None)
        _put(values, "schedule.warmup_epochs", group.warmup_share * (epochs or config.schedule.num_epochs))


def _build(values: Mapping[str, Any], *, parent: Cell | None, source: str, problems: Sequence[str]) -> StageConfig:
    if parent is not None:
        return build_config(FinetuneConfig, values, source=source, problems=problems)
    return build_config(PretrainConfig, values, source=source, problems=problems)


def _digest(config: StageConfig, train: SetFacts, evaluation: SetFacts | None, parent: Cell | None) -> str | None:
    measured = None if evaluation is None else evaluation.fingerprint
    is_known = evaluation is None or measured is not None
    if train.fingerprint is None or not is_known or (parent is not None and parent.digest is None):
        return None
    start = None if parent is None else parent.digest
    return digest_parts(config, train=train.fingerprint, evaluation=measured, parent=start)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[leaf] = value


def _share_runs(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Let cells of one digest point to one run: whose directory is there, else a trunk or branch, else the first."""
    owners: dict[str, str] = {}
    trunks = list_trunks(cells)

    def rank(cell: Cell) -> tuple[bool, bool]:
        return not (folder / cell.name).exists(), cell.trunk is None and cell.name not in trunks

    for cell in sorted(cells, key=rank):
        if cell.digest is not None:
            owners.setdefault(cell.digest, cell.name)
    return [replace(cell, run=owners.get(cell.digest or "", cell.name)) for cell in cells]


def _find_contradictions(cells: Sequence[Cell]) -> Iterator[str]:
    by_run: dict[str, list[Cell]] = {}
    for cell in cells:
        by_run.setdefault(cell.run, []).append(cell)
    for same in by_run.values():
        held, seen = [cell for cell in same if cell.is_held_out], [cell for cell in same if not cell.is_held_out]
        if held and seen:
            yield (
                f"groups.{held[0].group}: {held[0].key} is to be foretold, but groups.{seen[0].group} asks for the "
                "same run as data of the fit; take it out of one of the two"
            )
        twice = next((pair for pair in itertools.combinations(same, 2) if pair[0].group == pair[1].group), None)
        if twice is not None:
            yield (
                f"groups.{twice[0].group}: {twice[0].key} and {twice[1].key} ask for the same run; put {{family}} or "
                "{size} into base or overrides, or name what they differ in under `per`"
            )
