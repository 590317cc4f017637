"""What a group of a study's runs is: every combination of what it lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hornet.config import Settings
from hornet.field_types import NameOrPath

AXES = ("families", "sizes", "fractions", "seeds")


@dataclass(frozen=True, kw_only=True)
class GroupConfig(Settings):
    """Runs of one kind: every combination of what is listed."""

    base: NameOrPath
    """A config of a pretraining, or of a finetuning; {family} and {size} in it stand for the run's own."""
    overrides: tuple[str, ...] = ()
    """`key=value` as on the command line, for all of the group's runs; {family} and {size} as in `base`."""
    families: tuple[str, ...] | None = None
    """What is compared, such as gf and 7x7; null for one family without a name."""
    sizes: tuple[str, ...] | None = None
    """Sizes of the network, such as atto and femto; null where the base says it."""
    fractions: tuple[float, ...] | None = None
    """Shares of the training images, over 0 and up to 1; null for all of them."""
    seeds: tuple[int, ...] | None = None
    """Values of run.seed; null for 0."""
    epochs: tuple[float, ...] | None = None
    """Lengths in epochs; null for the base's own length."""
    images_seen: tuple[int, ...] | None = None
    """Lengths in images, whatever the share, instead of `epochs`."""
    images_by_fraction: tuple[int, ...] | None = None
    """One length in images for each of `fractions`, in their order, instead of `epochs` and `images_seen`."""
    warmup_share: float | None = None
    """Warm-up as a share of the run, 0 to 1, instead of the base's epochs."""
    trunk: bool = False
    """Whether runs that differ in length alone share their beginning: the longest is the trunk, the others branch off
    where their cooldown begins, to the bit as if they had begun at step 0. Needs schedule.shape=wsd; warmup_share is
    then of the shortest."""
    from_: str | None = None
    """For finetunings: the group whose runs they start from. The other lists then choose among those runs."""
    predict_first: bool = False
    """Whether these runs are held out: fits do not see them, and they start once their results are foretold."""
    pilot: tuple[str, ...] | None = None
    """For a pilot: `key=value` that are tried, one a run. Such runs come first, and no fit sees them;
    `launch/scaling.py pilot` says which was best of each family and size, in words for `per`."""

    def _find_problems(self) -> Iterator[str]:
        for name in (*AXES, "epochs", "images_seen", "pilot"):
            if getattr(self, name) == ():
                yield f"{name}: is empty, so the group has no runs; name at least one, or leave the key out"
            yield from _find_twice(name, getattr(self, name) or ())
        for name in ("families", "sizes"):
            for text in getattr(self, name) or ():
                if not re.fullmatch(r"\w[\w.-]*", text):
                    yield f"{name}: may hold letters, digits, _ - and ., not {text!r}"
        for fraction in self.fractions or ():
            if not 0 < fraction <= 1:
                yield f"fractions: must be over 0 and at most 1, not {fraction:g}"
        if self.epochs is not None and self.images_seen is not None:
            yield "images_seen: stands beside epochs; give one of the two"
        yield from self._find_problems_by_fraction()
        for name in ("epochs", "images_seen", "images_by_fraction"):
            for length in getattr(self, name) or ():
                if not length > 0:
                    yield f"{name}: must be above 0, not {length:g}"
        if self.warmup_share is not None and not 0 <= self.warmup_share <= 1:
            yield f"warmup_share: must lie in 0..1, not {self.warmup_share:g}"
        if self.trunk and len(self.epochs or self.images_seen or ()) < 2:
            yield "trunk: is shared by runs of several lengths; list at least two in epochs or images_seen"
        if self.trunk and self.from_ is not None:
            yield "trunk: is for pretrainings; leave it out of finetunings"
        for text in self.pilot or ():
            if not re.fullmatch(r"[\w.]+=[\w.-]+", text):
                yield f"pilot: {text!r} is not key=value of letters, digits and _ . -"
        for name in ("from_", "trunk", "predict_first"):
            if self.pilot is not None and getattr(self, name):
                yield f"pilot: stands beside {name.rstrip('_')}; a pilot is of pretrainings that no other run needs"
        for name, axis in (("{family}", self.families), ("{size}", self.sizes)):
            if axis is None and self.from_ is None and any(name in text for text in (self.base, *self.overrides)):
                yield f"base: {name} stands in it or in overrides, but the group lists none"

    def _find_problems_by_fraction(self) -> Iterator[str]:
        if self.images_by_fraction is None:
            return
        if self.epochs is not None or self.images_seen is not None:
            yield "images_by_fraction: stands beside epochs or images_seen; give one of the three"
        if self.from_ is not None:
            yield "images_by_fraction: is for pretrainings; give a finetuning epochs or images_seen"
        elif len(self.images_by_fraction) != len(self.fractions or ()):
            yield (
                f"images_by_fraction: has {len(self.images_by_fraction)} lengths for {len(self.fractions or ())} "
                "fractions; give one for each"
            )


def list_names(group: GroupConfig) -> Iterator[str]:
    """Yield what `per` may name: families, sizes, and FAMILY-SIZE."""
    families, sizes = group.families or (), group.sizes or ()
    yield from (*families, *sizes, *(f"{family}-{size}" for family in families for size in sizes))


def find_problems_of_parents(groups: dict[str, GroupConfig], names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the groups that finetunings start from; `names` are those of all groups."""
    for name, group in groups.items():
        if group.from_ is None:
            continue
        parent = groups.get(group.from_)
        if group.from_ not in names:
            yield f"groups.{name}.from: there is no group {group.from_!r}; groups are {', '.join(names)}"
        elif parent is not None and parent.pilot is not None:
            yield f"groups.{name}.from: {group.from_} is a pilot; name a group of the study's own pretrainings"
        elif parent is not None and parent.from_ is not None:
            yield f"groups.{name}.from: {group.from_} is a finetuning itself; name the group of the pretrainings"
        if group.predict_first:
            yield f"groups.{name}.predict_first: laws foretell pretrainings; leave it out of finetunings"


def _find_twice(name: str, values: Sequence[float | str]) -> Iterator[str]:
    for value in sorted({each for each in values if values.count(each) > 1}, key=str):
        yield f"{name}: holds {value} twice, so runs would stand twice in the study; name it once"
