"""Layout `ilsvrc-val`: ILSVRC2012_img_val.tar with the ground truth of its development kit; no sorting by hand."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.source import SeekableSource
from hornet.shards.build.sources.archives import TarPart

NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
NUM_CLASSES = 1000
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The class of each validation image."""

    synsets: tuple[str, ...]
    """Of image 1, 2, ..."""

    def __call__(self, name: str) -> str:
        """Return an image's class by its file name; raises ValueError."""
        match = NAME.fullmatch(name.rpartition("/")[2])
        if not match:
            raise ValueError(f"{name!r} is not named as a validation image (ILSVRC2012_val_00000001.JPEG)")
        number = int(match[1])
        if not 1 <= number <= len(self.synsets):
            raise ValueError(f"{name!r} has a number that the ground truth does not; it has {len(self.synsets)} lines")
        return self.synsets[number - 1]


def open_ilsvrc_val(path: Path, devkit: Path | None) -> SeekableSource:
    """Open the validation tar; raises UserError if the development kit is missing or damaged."""
    if devkit is None:
        raise UserError(
            f"{path}: the validation images carry no classes; give the development kit that comes with them, "
            "--devkit ILSVRC2012_devkit_t12.tar.gz"
        )
    truth = GroundTruth(synsets=read_ground_truth(devkit))
    part = TarPart(name=path.name.removesuffix(".tar"), path=path, class_name="", class_of=truth)
    return SeekableSource(parts=(part,), classes=tuple(sorted(set(truth.synsets))))


def read_ground_truth(devkit: Path) -> tuple[str, ...]:
    """Return the synset of each validation image, in their order; raises UserError."""
    synset_of = _read_meta(_read_file(devkit, META), devkit)
    lines = _read_file(devkit, GROUND_TRUTH).decode("ascii", "replace").split()
    try:
        return tuple(synset_of[int(line)] for line in lines)
    except (KeyError, ValueError) as error:
        raise UserError(f"{devkit}: {GROUND_TRUTH} holds {error}, which is no class of {META}") from error


def _read_file(devkit: Path, name: str) -> bytes:
    """Read a file of the kit by its name, from the archive or the unpacked folder."""
    try:
        if devkit.is_dir():
            found = sorted(devkit.rglob(name))
            if found:
                return found[0].read_bytes()
        else:
            with tarfile.open(devkit) as tar:
                for member in tar:
                    if member.isreg() and Path(member.name).name == name and member.size <= MAX_FILE_BYTES:
                        file = tar.extractfile(member)
                        return b"" if file is None else file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{devkit}: cannot be read as a development kit ({error})") from error
    raise UserError(f"{devkit}: holds no {name}; give ILSVRC2012_devkit_t12.tar.gz or the folder it unpacks to")


def _read_meta(content: bytes, devkit: Path) -> dict[int, str]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError("the devkit is read with scipy, which is not installed; run `pip install scipy`") from error
    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]
        found = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    except Exception as error:  # loadmat raises anything on damaged bytes
        raise UserError(f"{devkit}: {META} is damaged ({type(error).__name__}: {error})") from error
    if sorted(found) != list(range(1, NUM_CLASSES + 1)):
        raise UserError(f"{devkit}: {META} names {len(found)} classes, {NUM_CLASSES} are expected")
    return found
