"""The sets of a study: what is known of them, and shares of their training images, each inside the larger ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hornet.data.config import EvaluationConfig, StreamConfig
from hornet.errors import UserError
from hornet.planning.samples import KNOWN_SIZES
from hornet.shards.imagenet import LAYOUTS
from hornet.shards.manifest import MANIFEST_NAME, fingerprint_split, is_url, read_manifest
from hornet.shards.shard_set import open_shards, shard_stem
from hornet.shards.views.subset import REDUCED_SPLIT, SubsetPlan, make_subset


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """What a study knows of a split."""

    num_samples: int
    num_classes: int
    fingerprint: str | None
    """None while the set is not here; runs of it have no digest then, and cannot start."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of a set's training images."""

    source: Path
    fraction: float
    seed: int
    folder: Path

    @property
    def is_here(self) -> bool:
        """Whether the share was made."""
        return (self.folder / MANIFEST_NAME).exists()


def name_share(source: Path, fraction: float, *, seed: int, beside: Path | None) -> Share:
    """Say where the share of a set is kept: `beside`, or beside the set."""
    folder = (beside or source.parent) / f"{source.name}-f{fraction:g}-s{seed}"
    return Share(source=source, fraction=fraction, seed=seed, folder=folder)


def make_shares(shares: Sequence[Share]) -> None:
    """Make those that are not here.

    Raises UserError if a set is missing, or if shares do not lie inside one another.
    """
    for share in shares:
        if not share.is_here:
            make_subset(
                SubsetPlan(
                    source=share.source,
                    output=share.folder,
                    name=f"{share.source.name}-f{share.fraction:g}",
                    split=None,
                    fraction=share.fraction,
                    per_class=None,
                    seed=share.seed,
                    allow_empty_classes=False,
                    classes=None,
                    exclude=None,
                    allow_unmatched=False,
                )
            )
    problems = list(find_unnested(shares))
    if problems:
        raise UserError("\n".join(problems))


def find_unnested(shares: Sequence[Share]) -> Iterator[str]:
    """Yield a sentence for each share whose images are not all among those of the next larger one, or of the set."""
    for source in dict.fromkeys(share.source for share in shares):
        mine = sorted((share for share in shares if share.source == source), key=lambda share: share.fraction)
        folders = [*(share.folder for share in mine), source]
        for smaller, larger in itertools.pairwise(folders):
            lost = _list_samples(smaller) - _list_samples(larger)
            if lost:
                yield (
                    f"{smaller}: {len(lost)} of its images are not in {larger}, so the shares of this study are not "
                    "nested; remove the folder, and the study makes it again"
                )


def _list_samples(folder: Path) -> set[tuple[str, int]]:
    """Return (tar, byte in it) of each sample to train on."""
    shards = open_shards(folder, REDUCED_SPLIT)
    stems = np.repeat([shard_stem(name) for name in shards.split.shards], shards.split.shard_lengths)
    return set(zip(stems.tolist(), shards.records["offset"].tolist(), strict=True))


def find_facts(data: StreamConfig | EvaluationConfig, *, fraction: float = 1.0) -> SetFacts:
    """Return what is known of a split; of a set that is not here, what is known of one of its name.

    `fraction` is that of a share which was not made yet: `data.shards` then names the whole set.
    Raises UserError if nothing is known.
    """
    place = str(data.shards)
    if is_url(place):
        remote = open_shards(place, data.split, remote=data.remote, index=data.index)
        facts = SetFacts(
            num_samples=remote.num_samples, num_classes=len(remote.label_space), fingerprint=remote.fingerprint
        )
    elif (Path(place) / MANIFEST_NAME).exists():
        manifest = read_manifest(Path(place))
        split = manifest.split(data.split)
        facts = SetFacts(
            num_samples=split.num_samples,
            num_classes=len(manifest.label_space),
            fingerprint=fingerprint_split(split, manifest.label_space),
        )
    else:
        name = Path(place).name
        if name not in KNOWN_SIZES:
            raise UserError(f"{place}: there is no set of shards; build it first (launch/shards.py build)")
        facts = SetFacts(num_samples=KNOWN_SIZES[name], num_classes=LAYOUTS[name].num_classes, fingerprint=None)
    if fraction == 1.0:
        return facts
    return SetFacts(num_samples=round(fraction * facts.num_samples), num_classes=facts.num_classes, fingerprint=None)
