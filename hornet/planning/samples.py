"""How many images, classes and bytes a run's set has: from its manifest if it is there, else from what is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hornet.data.config import StreamConfig
from hornet.errors import UserError
from hornet.planning.question import Question
from hornet.shards.imagenet import LAYOUTS
from hornet.shards.manifest import MANIFEST_NAME, is_url, read_manifest

KNOWN_SIZES = {
    # Training images, as LAYOUTS' remarks have them.
    "imagenet-1k": 1_281_167,
    "imagenet-12k": 12_129_687,
    "imagenet-21k-p": 11_060_223,
    "imagenet-22k": 14_197_122,
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The training split."""

    num_samples: int
    num_classes: int
    num_bytes: int
    """Of its tars."""
    source: str
    """Where the numbers are from, for people."""


def find_samples(config: StreamConfig, question: Question) -> Samples:
    """Return what is known of the split that `config` names; numbers in `question` go before all others.

    Raises UserError if nothing is known.
    """
    place = str(config.shards)
    if question.num_samples is not None and question.num_classes is not None:
        return _assume(question, question.num_samples, question.num_classes, source="given")
    if not is_url(place) and (Path(place) / MANIFEST_NAME).exists():
        manifest = read_manifest(Path(place))
        split = manifest.split(config.split)
        num_samples = question.num_samples or split.num_samples
        return Samples(
            num_samples=num_samples,
            num_classes=question.num_classes or len(manifest.label_space),
            num_bytes=sum(split.shard_bytes) * num_samples // split.num_samples,
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


def _assume(question: Question, num_samples: int, num_classes: int, *, source: str) -> Samples:
    num_bytes = num_samples * question.bytes_per_image
    return Samples(num_samples=num_samples, num_classes=num_classes, num_bytes=num_bytes, source=source)
