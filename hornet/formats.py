"""What earlier releases wrote, as today's code reads it: the one table for whoever adds, renames or removes a key.

Three kinds of file outlive a release and carry the number of their format: a run's config.yaml, a checkpoint's
manifest.json and a set's _info.json. A file of an earlier format is read as if today's code had written it; one of a
later format is refused with the release it needs. The rule for changes stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from hornet import __version__
from hornet.errors import UserError

PROGRAM = f"hornet {__version__}"

MADE_BY = "made_by"
"""Key of all three files: the release that wrote it, as `hornet 0.2.0`."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file that outlives a release, with the numbers of its formats."""

    key: str
    """Key of the file under which its number stands."""
    releases: tuple[str, ...]
    """The first release that wrote format 1, 2, ...; the last is what today's code writes."""

    @property
    def number(self) -> int:
        """The format that today's code writes."""
        return len(self.releases)

    @property
    def header(self) -> dict[str, Any]:
        """The entries that a new file gets."""
        return {self.key: self.number, MADE_BY: PROGRAM}

    def read_number(self, content: Mapping[str, Any], *, source: str) -> int:
        """Return the number of a file's format, 1 where it has none.

        Raises LaterFormatError if only a later release reads it, UserError if it is no number.
        """
        number = content.get(self.key, 1)
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise UserError(f"{source}: {self.key} must be a whole number from 1, not {number!r}")
        if number > self.number:
            writer = content.get(MADE_BY, "a later release")
            raise LaterFormatError(
                f"{source}: was written by {writer} in format {number}, but this is {PROGRAM}, which reads formats up "
                f"to {self.number}; go on with {writer} or later"
            )
        return number


class LaterFormatError(UserError):
    """A file is whole, but only a later release can read it."""


CONFIG = Format(key="format", releases=("0.1.0", "0.2.0"))
"""A run's config.yaml. A setting's name must not be `format`."""

CHECKPOINT = Format(key="version", releases=("0.0", "0.1.0"))
"""A checkpoint's manifest.json. Format 1 is of the code before the first release."""

SHARDS = Format(key="hornet_format", releases=("0.1.0",))
"""A set's _info.json, which timm reads too: both entries are unknown to it, and it does not mind."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A setting that is gone."""

    release: str
    """The first release without it."""
    does_as: Any
    """Today's code does what it did at this value; a run with another one cannot go on."""


RENAMED: Mapping[str, str] = {
    "model.checkpoint_activations": "model.activation_checkpointing",  # before 0.1.0
    "cadence.keep_checkpoints": "checkpoints.newest",  # before 0.1.0
    "cadence.pictures_every_steps": "cadence.images_every_steps",  # 0.2.0
    "num_pictures": "num_rendered_images",  # within 0.2.0
}
"""Settings that have another name now."""

REMOVED: Mapping[str, Removed] = {}
"""Settings that are gone. One that stands neither here nor among today's is refused: it meant something once."""

UNWRITTEN: Mapping[str, Any] = {
    "recipe.clipping": "standard",  # 0.1.0
    "guard.spike_sigmas": None,  # 0.1.0; before, only what was not finite was dropped
    "model.module": None,  # 0.2.0
    "model.arguments": None,  # 0.2.0
    "model.head_init_scale": 1.0,  # 0.2.0
    "model.resize": "bilinear",  # 0.2.0
    "schedule.shape": "cosine",  # 0.2.0
    "schedule.cooldown_share": 0.2,  # 0.2.0; of no effect under a cosine
    "schedule.cooldown": "1-sqrt",  # 0.2.0; likewise
    "schedule.drop_steps": [],  # 0.2.0; before, launch/dense.py had the curve alone
    "task": "semantic",  # 0.2.0; likewise
    "model.regions_per_image": 512,  # 0.2.0
    "guard.max_norm_spikes_in_a_row": None,  # 0.2.0
    "guard.window_steps": 128,  # 0.1.0; of no effect without spike_sigmas
}
"""What a setting that is not written meant to earlier code, which had none or another default: the value that does what
that code did. A run that was begun so goes on with it, unless its user asks for another value than today's default."""


REDEFINED: Mapping[tuple[str, Any], Any] = {
    ("recipe.clipping", "paper"): "every_micro_step",  # 0.2.0: the same with two micro steps
}
"""Values of settings that meant something else in format 1 of config.yaml: what does the same today."""


def read_run_values(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Return the settings in a run's config.yaml, whatever release wrote it, by today's names and without the header.

    Raises UserError if a later release wrote it, or for a setting that was removed and did what today's code cannot do.
    """
    number = CONFIG.read_number(content, source=source)
    values = deepcopy({key: value for key, value in content.items() if key not in (CONFIG.key, MADE_BY)})
    for old, new in RENAMED.items():
        if _holds(values, old):
            value = _take(values, old)
            if not _holds(values, new):
                put(values, new, value)
    for (key, meant), today in REDEFINED.items():
        if number == 1 and _holds(values, key):
            value = _take(values, key)
            put(values, key, today if value == meant else value)
    for key, removed in REMOVED.items():
        if _holds(values, key) and (value := _take(values, key)) != removed.does_as:
            raise UserError(
                f"{source}: {key}={value!r} was removed in {removed.release}, which does as with {removed.does_as!r}; "
                f"go on with {describe_writer(content)}"
            )
    return values


def describe_writer(content: Mapping[str, Any]) -> str:
    """Return which release wrote a run's config.yaml, for people."""
    return str(content.get(MADE_BY, f"hornet {CONFIG.releases[0]}, or the code before it that wrote it"))


def read_manifest(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Return a checkpoint's manifest as today's code writes it, whatever release wrote it.

    Raises LaterFormatError if a later release wrote it.
    """
    number = CHECKPOINT.read_number(content, source=source)
    if number == 1:  # the step stood outside the counters; no batch could be left out
        state = {"step": content["step"], "skipped_batches": [], **content["counters"]}
        return {**content, "state": state}
    return dict(content)


def _holds(values: Mapping[str, Any], key: str) -> bool:
    section, _, rest = key.partition(".")
    inner = values.get(section)
    return section in values if not rest else isinstance(inner, Mapping) and _holds(inner, rest)


def _take(values: dict[str, Any], key: str) -> Any:
    """Remove a setting and return its value; a section that it leaves empty goes too."""
    section, _, rest = key.partition(".")
    if not rest:
        return values.pop(section)
    value = _take(values[section], rest)
    if not values[section]:
        del values[section]
    return value


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a setting by its dotted key; a section that is not there is made."""
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = value
