"""How many images, classes and bytes a run's set has: from its manifest if it is there, else from what is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hornet.data.config import StreamConfig
from hornet.errors import UserError
from hornet.planning.question import Question
from hornet.shards.imagenet import LAYOUTS
from hornet.shards.indexing.on_demand import describe_tars
from hornet.shards.indexing.tar_list import is_tar_list, list_tars
from hornet.shards.manifest import MANIFEST_NAME, Manifest, Split, is_url, read_manifest
from hornet.shards.summary import read_image_bytes

KNOWN_SIZES = {
    # Training images, as LAYOUTS' remarks have them.
    "imagenet-1k": 1_281_167,
    "imagenet-12k": 12_129_687,
    "imagenet-21k-p": 11_060_223,
    "imagenet-22k": 14_197_122,
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The training split as the plan knows it: read from its manifest, or given as numbers."""

    num_samples: int
    num_classes: int
    num_bytes: int
    """Bytes of all its tars; of a view of a larger set, of its own images in them."""
    source: str
    """Where the numbers are from, for people."""


def find_samples(config: StreamConfig, question: Question) -> Samples:
    """Return what is known of the split that `config` names; numbers in `question` go before all others.

    Raises UserError if nothing is known.
    """
    place = str(config.shards)
    if question.num_samples is not None and question.num_classes is not None:
        return _assume(question, question.num_samples, question.num_classes, source="given")
    folder = _find_set(config, place)
    if folder is not None:
        manifest = read_manifest(folder)
        split = manifest.split(config.split)
        num_samples = question.num_samples or split.num_samples
        return Samples(
            num_samples=num_samples,
            num_classes=question.num_classes or len(manifest.label_space),
            num_bytes=_count_bytes(manifest, split) * num_samples // split.num_samples,
            source=str(manifest.path),
        )
    name = Path(place).name
    if name not in KNOWN_SIZES:
        raise UserError(
            f"data.shards: {place} is not here, and no set of {name!r} is known ({', '.join(KNOWN_SIZES)} are); "
            "give --samples and --classes"
        )
    return _assume(
        question,
        question.num_samples or KNOWN_SIZES[name],
        question.num_classes or LAYOUTS[name].num_classes,
        source=f"{place} is not here: assumed to be the known {name}, {question.bytes_per_image / 1e3:.0f} kB an image",
    )


def _count_bytes(manifest: Manifest, split: Split) -> int:
    sizes = read_image_bytes(manifest, split) if split.is_view else None
    return sum(split.shard_bytes) if sizes is None else int(sizes.sum())


def _find_set(config: StreamConfig, place: str) -> Path | None:
    """Return the folder of a set that is on this machine, or of the index of its tars, made as training would."""
    if is_url(place):
        return None
    if not is_tar_list(place):
        return Path(place) if (Path(place) / MANIFEST_NAME).exists() else None
    try:
        tars = list_tars(place)
    except UserError as error:
        raise UserError(f"data.shards: {error}; or give --samples and --classes") from error
    is_here = all(Path(tars.folder.locate(shard)).exists() for shard in tars.shards)
    return describe_tars(place, config.split, index=config.index) if is_here else None


def _assume(question: Question, num_samples: int, num_classes: int, *, source: str) -> Samples:
    num_bytes = num_samples * question.bytes_per_image
    return Samples(num_samples=num_samples, num_classes=num_classes, num_bytes=num_bytes, source=source)
