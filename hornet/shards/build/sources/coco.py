"""Layout `coco`: annotations/instances_SPLIT.json beside the images in SPLIT/ or images/SPLIT/, as COCO comes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hornet.errors import UserError
from hornet.shards.build.source import AnnotationFile, Entry, PartListing, SeekableSource
from hornet.shards.build.sources.mask_folders import IMAGES, MASKS, OBJECTS_PREFIX
from hornet.shards.build.sources.names import is_image
from hornet.shards.instances import BACKGROUND
from hornet.shards.sample_parts import Incomplete

LISTS = ("images", "annotations", "categories")
UNNAMED = "objects"
"""In the place of a class: an image has objects of many."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedFolder:
    """The images that a file of annotations lists."""

    name: str
    path: Path
    annotations: Path
    images: tuple[str, ...]
    """Their paths below `path`, as the file has them."""
    incomplete: Incomplete

    def list(self) -> PartListing:
        """See Part. Raises UserError if a listed image is not there, unless those are to be skipped."""
        entries, missing = [], []
        for name in sorted(self.images):
            try:
                size = (self.path / name).stat().st_size
            except OSError:
                missing.append(name)
                continue
            entries.append(Entry(name=name, class_name=UNNAMED, offset=None, size=size))
        remarks = []
        if missing and self.incomplete == "refuse":
            raise UserError(
                f"{self.annotations}: {len(missing)} of its {len(self.images)} images are not in {self.path}, the "
                f"first is {missing[0]!r}; add them, or leave them out with --incomplete skip"
            )
        if missing:
            remarks.append(f"{self.path}: {len(missing)} listed images are not there, {missing[0]!r} for one")
        known = set(self.images)
        paths = (str(path.relative_to(self.path)) for path in self.path.rglob("*") if is_image(path.name))
        others = sorted(name for name in paths if name not in known)
        if others:
            remarks.append(
                f"{self.path}: {len(others)} images are not listed in {self.annotations.name} and were left out, "
                f"{others[0]!r} for one"
            )
        return PartListing(entries=tuple(entries), remarks=tuple(remarks))


def is_coco(path: Path) -> bool:
    """Whether a folder is laid out so, and has no masks of classes that would be meant first."""
    annotations = path / MASKS
    return any(annotations.glob(f"{OBJECTS_PREFIX}*.json")) and (
        not (path / IMAGES).is_dir() or next(annotations.rglob("*.png"), None) is None
    )


def open_coco(
    path: Path, *, split: str | None, annotations: Path | None, images: Path | None, incomplete: Incomplete
) -> SeekableSource:
    """Open the images of a split with their objects; `annotations` and `images` are for files that lie elsewhere.

    The whole file is read at once: COCO's needs about 3 GB of memory. Raises UserError if it is none of COCO's kind.
    """
    file, folder = _find(path, split=split, annotations=annotations, images=images)
    found, remarks = read_annotations(file, incomplete=incomplete)
    part = AnnotatedFolder(
        name=split or folder.resolve().name,
        path=folder,
        annotations=file,
        images=tuple(found.images),
        incomplete=incomplete,
    )
    return SeekableSource(parts=(part,), remarks=remarks, annotations=found)


def _find(path: Path, *, split: str | None, annotations: Path | None, images: Path | None) -> tuple[Path, Path]:
    if annotations is None or images is None:
        names = sorted(
            file.stem.removeprefix(OBJECTS_PREFIX) for file in (path / MASKS).glob(f"{OBJECTS_PREFIX}*.json")
        )
        if split is None and len(names) != 1 and annotations is None:
            raise UserError(
                f"{path / MASKS}: has the splits {', '.join(names)}; choose one with --source-split"
                if names
                else f"{path / MASKS}: holds no {OBJECTS_PREFIX}SPLIT.json; name the file with --annotations"
            )
        split = split or (names[0] if len(names) == 1 else None)
    if annotations is None:
        annotations = path / MASKS / f"{OBJECTS_PREFIX}{split}.json"
        if not annotations.is_file():
            raise UserError(
                f"{annotations}: is no file; the splits there are {', '.join(names) or 'none'}, and --annotations "
                "names a file that lies elsewhere"
            )
    if images is None:
        places = [path / split, path / IMAGES / split] if split else []
        images = next((place for place in places if place.is_dir()), None)
        if images is None:
            looked = f", and neither {' nor '.join(map(str, places))} is a folder" if places else ""
            raise UserError(f"{annotations}: where its images lie is not known{looked}; name the folder with --images")
    if not images.is_dir():
        raise UserError(f"{images}: is no folder; --images names the one that holds the images of {annotations.name}")
    return annotations, images


def read_annotations(path: Path, *, incomplete: Incomplete) -> tuple[AnnotationFile, tuple[str, ...]]:
    """Read a file of COCO's kind; return its objects by image, and remarks on what was left out. Raises UserError."""
    value = _read_json(path)
    labels, names, ids = _number_categories(path, value["categories"])
    listed: dict[int, Any] = {}
    for image in value["images"]:
        _require(path, image, "an image", id=int, file_name=str)
        if image["id"] in listed:
            raise UserError(
                f"{path}: two images have the id {image['id']} ({listed[image['id']]['file_name']!r} and "
                f"{image['file_name']!r}), so their annotations cannot be told apart; number the images anew"
            )
        listed[image["id"]] = image
    _check_file_names(path, [image["file_name"] for image in listed.values()])
    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in listed}
    without: list[Any] = []
    for one in value["annotations"]:
        _require(path, one, "an annotation", id=int, image_id=int, category_id=int)
        if one["category_id"] not in labels:
            raise UserError(
                f"{path}: annotation {one['id']} is of category {one['category_id']}, which `categories` does not "
                "name; add it there, or remove the annotation"
            )
        if one["image_id"] not in objects:
            without.append(one)
            continue
        kept = {key: one.get(key) for key in ("bbox", "area", "iscrowd", "segmentation") if one.get(key) is not None}
        objects[one["image_id"]].append({"id": one["id"], "category": labels[one["category_id"]], **kept})
    remarks: tuple[str, ...] = ()
    if without:
        found = f"{len(without)} annotations are of images that `images` does not list"
        first = f"{without[0]['id']} of image {without[0]['image_id']}"
        if incomplete == "refuse":
            raise UserError(
                f"{path}: {found}, the first is {first}; add the images, or leave such annotations out with "
                "--incomplete skip"
            )
        remarks = (f"{path}: {found}, {first} for one; they were left out",)
    # As text, since a process that is forked for the build would copy every object that it looks at.
    images = {image["file_name"]: _encode(image, objects.pop(number)) for number, image in listed.items()}
    return AnnotationFile(path=path, categories=names, category_ids=ids, images=images), remarks


def _read_json(path: Path) -> Mapping[str, Any]:
    wanted = "a file of COCO's kind is an object with the lists images, annotations and categories"
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({str(error)[:80]}); {wanted}") from error
    missing = [name for name in LISTS if not isinstance(value, dict) or not isinstance(value.get(name), list)]
    if missing:
        held = "a list, as results are," if isinstance(value, list) else f"without {' and '.join(missing)}"
        raise UserError(f"{path}: is {held} and not COCO's annotations of objects; {wanted}")
    return dict(value)


def _number_categories(
    path: Path, categories: Sequence[Any]
) -> tuple[dict[int, int], tuple[str, ...], tuple[int, ...]]:
    """Return the label of each category's id (1 and on, in their order), their names and their ids."""
    for category in categories:
        _require(path, category, "a category", id=int, name=str)
    for key in ("id", "name"):
        twice = _find_twice([category[key] for category in categories])
        if twice is not None:
            raise UserError(f"{path}: two categories have the {key} {twice!r}; each must have its own")
    ordered = sorted(categories, key=lambda category: int(category["id"]))
    names = tuple(category["name"] for category in ordered)
    if not names:
        raise UserError(f"{path}: names no categories; they are the classes of the objects")
    if BACKGROUND in names:
        raise UserError(f"{path}: names a category {BACKGROUND!r}, which is what no object is; give it another name")
    ids = tuple(category["id"] for category in ordered)
    return {number: label for label, number in enumerate(ids, start=1)}, names, ids


def _check_file_names(path: Path, names: Sequence[str]) -> None:
    twice = _find_twice(names)
    if twice is not None:
        raise UserError(f"{path}: two images have the file_name {twice!r}; put their annotations together under one id")
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
            raise UserError(f"{path}: file_name {name!r} does not lie below the folder of the images; correct it")


def _encode(image: Mapping[str, Any], objects: list[dict[str, Any]]) -> bytes:
    sizes = {key: image.get(key) for key in ("height", "width")}
    return json.dumps({"image_id": image["id"], **sizes, "annotations": objects}, separators=(",", ":")).encode()


def _require(path: Path, value: Any, what: str, **types: type) -> None:
    for key, wanted in types.items():
        if not isinstance(value, dict) or type(value.get(key)) is not wanted:
            kind = "a whole number" if wanted is int else "text"
            raise UserError(f"{path}: has {what} whose {key} is not {kind}: {json.dumps(value)[:100]}; correct it")


def _find_twice(values: Sequence[Hashable]) -> Any:
    counts = Counter(values)
    return next((value for value, count in counts.items() if count > 1), None)
