"""Raw images to shards: what is read back by webdataset, timm and our own stream."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import os
import resource
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import webdataset
from timm.data import create_dataset

from hornet.durable import hash_file
from hornet.errors import UserError
from hornet.shards.build import build as build_module
from hornet.shards.build import workplace
from hornet.shards.build.build import build
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.listing import ListedImage
from hornet.shards.build.plan import BuildPlan, BuildReport
from hornet.shards.build.report import describe_build, describe_plan
from hornet.shards.build.selection import Selection
from hornet.shards.build.workplace import Workplace
from hornet.shards.check.verify import VerifyPlan, VerifyReport, verify_set
from hornet.shards.manifest import read_manifest, write_manifest
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from tests.unit.shards.making import encode, index, make_image, write_shards

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def put(source: Path, name: str, content: bytes | None = None) -> bytes:
    path = source / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image_format = FORMATS.get(path.suffix.lstrip(".").lower(), "JPEG")
    content = encode(make_image(len(name)), image_format) if content is None else content
    path.write_bytes(content)
    return content


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes with 7 and 5 images in three formats."""
    for number in range(12):
        extension = list(FORMATS)[number % 3]
        class_name = "dog" if number < 7 else "cat"
        content = encode(make_image(number), FORMATS[extension])
        put(tmp_path / "source", f"{class_name}/{class_name}_{number}.{extension}", content)
    return tmp_path / "source"


def plan(source: Path, output: Path, **options: Any) -> BuildPlan:
    return BuildPlan(**{"source": source, "output": output, "name": "pets", "samples_per_shard": 5, **options})


def make(source: Path, output: Path, **options: Any) -> BuildReport:
    return build(plan(source, output, **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def forget_checksums(output: Path, split: str) -> None:
    """As `index` leaves a split that it did not read whole."""
    manifest = read_manifest(output)
    records = np.load(output / manifest.splits[split].index)
    records["crc"] = 0
    np.save(output / manifest.splits[split].index, records)
    known = {
        "index_sha256": hash_file(output / manifest.splits[split].index),
        "shard_sha256": (None,) * len(manifest.splits[split].shards),
    }
    write_manifest(manifest.with_split(dataclasses.replace(manifest.splits[split], **known)))  # type: ignore[arg-type]


def fill_in(folder: Path) -> VerifyReport:
    values: dict[str, Any] = {"split": None, "num_workers": 1, "report": None, "decode": True, "write_checksums": True}
    return verify_set(VerifyPlan(folder=folder, **values))


def keys(output: Path, split: str) -> set[str]:
    shards = open_shards(output, split)
    return {ShardReader(shards).read(number).key.partition("/")[2] for number in range(shards.num_samples)}


def test_all_images_arrive_with_their_bytes_and_labels(source: Path, tmp_path: Path) -> None:
    report = make(source, tmp_path / "out")
    shards = open_shards(tmp_path / "out", "train")
    raw = [ShardReader(shards).read(sample) for sample in range(12)]
    assert {sample.key.partition("/")[2]: (sample.label, sample.image) for sample in raw} == {
        f"{path.parent.name}/{path.stem}": (["cat", "dog"].index(path.parent.name), path.read_bytes())
        for path in source.glob("*/*")
    }
    assert shards.label_space.classes == ("cat", "dog")
    assert shards.split.shard_lengths == (5, 5, 2)
    assert shards.split.class_counts == (5, 7)
    assert (dict(report.dropped), report.mended, report.notes) == ({}, 0, ())
    assert contents(tmp_path / "out").keys() == {
        "_info.json",
        "train.index.npy",
        *(f"pets-train-00000{n}.tar" for n in range(3)),
    }


def test_webdataset_reads_the_shards(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == 12
    for sample in samples:
        (extension,) = set(sample) & set(FORMATS)
        assert sample["__key__"].startswith(["cat", "dog"][int(sample["cls"])])
        assert sample[extension] == (source / f"{sample['__key__']}.{extension}").read_bytes()


def test_timm_reads_the_set(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / "source", f"{'ab'[number % 2]}/{number}.jpg")
    make(tmp_path / "source", tmp_path / "out")
    dataset = create_dataset("wds/pets", root=str(tmp_path / "out"), split="train", is_training=False)
    assert len(dataset) == 6
    assert sorted(label for _, label in dataset) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_input_gives_the_same_bytes_whatever_the_workers(source: Path, tmp_path: Path, workers: int) -> None:
    make(source, tmp_path / "first", num_workers=1)
    for path in source.glob("*/*"):
        path.touch()
    make(source, tmp_path / "second", num_workers=workers)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_classes_are_mixed_over_the_shards_by_the_seed(source: Path, tmp_path: Path) -> None:
    def labels(seed: int) -> list[int]:
        make(source, tmp_path / f"out{seed}", seed=seed)
        found: list[int] = open_shards(tmp_path / f"out{seed}", "train").records["label"].tolist()
        return found

    first, second = labels(0), labels(1)
    assert first != sorted(first)
    assert first != second


def test_unusable_images_are_dropped_and_listed(source: Path, tmp_path: Path) -> None:
    put(source, "cat/broken.jpg", b"no image")
    put(source, "cat/n02428089_710.jpg", encode(make_image(1, width=99, height=99), "JPEG")[:-200])
    put(source, "dog/small.png", encode(make_image(1, width=9, height=99)))
    report = make(source, tmp_path / "out", image=ImageOptions(min_short_edge=10))
    (path,) = report.notes
    listed = {row.pop("name"): row for row in map(json.loads, path.read_text().splitlines())}
    assert listed["small.png"] == {
        "action": "dropped",
        "kind": "small",
        "part": "dog",
        "class": "dog",
        "reason": "9 x 99 pixels; the short edge must have 10",
    }
    assert listed["broken.jpg"]["reason"].startswith("not decodable (")
    assert report.dropped == {"undecodable": 2, "small": 1}
    assert open_shards(tmp_path / "out", "train").num_samples == 12
    said = describe_build(report)
    assert "dropped      3 images (1 small, 2 undecodable)" in said
    assert "known        1 of the dropped images are damaged in every copy of ImageNet" in said


def test_nothing_usable_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "source", "cat/broken.jpg", b"no image")
    with pytest.raises(UserError, match=r"none of the images of split 'train' can be used; see .*notes\.jsonl"):
        make(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out" / "_info.json").exists()


def test_a_second_split_takes_the_sets_label_space(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    for path in (source / "cat").iterdir():
        path.unlink()
    (source / "cat").rmdir()
    make(source, tmp_path / "out", split="validation")
    validation = open_shards(tmp_path / "out", "validation")
    assert validation.label_space.classes == ("cat", "dog")
    assert set(validation.records["label"].tolist()) == {1}
    assert open_shards(tmp_path / "out", "train").num_samples == 12


def test_another_label_space_is_refused_with_both_names(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    put(source, "emu/1.jpg")
    with pytest.raises(UserError, match=r"1 of the source's 3 classes are not in the label space 'pets'.*\(emu\)"):
        make(source, tmp_path / "out", split="validation")
    (tmp_path / "other.txt").write_text("cat\ndog\nemu\n")
    with pytest.raises(UserError, match=r"'pets' \(2 classes, fingerprint \w+\) is not 'other' \(3 classes, finger"):
        make(source, tmp_path / "out", split="validation", classes=str(tmp_path / "other.txt"))


def test_a_given_label_space_and_images_of_other_classes_dropped(source: Path, tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("emu\ndog\n")
    options = {"classes": str(tmp_path / "order.txt"), "selection": Selection(other_classes="drop")}
    report = make(source, tmp_path / "out", **options)
    shards = open_shards(tmp_path / "out", "train")
    assert set(shards.records["label"].tolist()) == {1}
    assert report.remarks == (
        "1 classes were left out; the first: cat, not in order",
        "1 of the 2 classes have no images; first: emu",
        "7 images have an edge of fewer than 32 pixels and are in the set (`verify` names them); --min-short-edge 32 "
        "leaves them out",
    )


def test_validation_takes_the_first_of_each_class(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", selection=Selection(validation_per_class=2))
    assert keys(tmp_path / "out", "validation") == {"cat/cat_10", "cat/cat_11", "dog/dog_0", "dog/dog_1"}
    assert len(keys(tmp_path / "out", "train")) == 8


def test_validation_takes_a_random_share_whatever_the_order_of_the_folder(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for file in sorted(source.rglob("*.*"), reverse=True):  # the order in which a folder lists its files
        (copy / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy / file.parent.name)
    share = Selection(validation_share=0.4, validation_at_least=2)
    make(source, tmp_path / "out", selection=share)
    make(copy, tmp_path / "other", selection=share)
    taken = keys(tmp_path / "out", "validation")
    assert taken == keys(tmp_path / "other", "validation")
    assert sorted(key.split("/")[0] for key in taken) == ["cat"] * 2 + ["dog"] * 3
    assert not taken & keys(tmp_path / "out", "train")
    with pytest.raises(UserError, match="validation-share: makes a split `validation`, so --split must have another"):
        plan(source, tmp_path / "out", selection=share, split="validation")


def test_the_same_command_again_has_nothing_to_do_and_another_is_refused(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out/.build.lock").touch()  # killed after its last step
    report = make(source, tmp_path / "out", num_workers=2)
    assert report.was_complete
    assert "nothing was done" in describe_build(report)
    assert contents(tmp_path / "out") == before
    with pytest.raises(UserError, match="split 'train' is already there, and was made from another source or with"):
        make(source, tmp_path / "out", seed=1)


def test_a_stopped_build_goes_on_only_with_its_own_options(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "finish_build", stop)
        with pytest.raises(KeyboardInterrupt):
            make(source, tmp_path / "out")
    assert not (tmp_path / "out" / "_info.json").exists()
    with pytest.raises(UserError, match=r"had other options or another source \(seed: 0, now 1\); go on with those"):
        make(source, tmp_path / "out", seed=1)
    (tmp_path / "out" / "pets-train-000001.tar").touch()  # a finished shard is not written again
    stamp = (tmp_path / "out" / "pets-train-000001.tar").stat().st_mtime_ns
    make(source, tmp_path / "out")
    assert (tmp_path / "out" / "pets-train-000001.tar").stat().st_mtime_ns == stamp
    make(source, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def stop_before_the_end(monkeypatch: pytest.MonkeyPatch, source: Path, output: Path, **options: Any) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "finish_build", stop)
        with pytest.raises(KeyboardInterrupt):
            make(source, output, **options)


def test_a_finished_split_asked_for_again_leaves_the_work_on_another_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script does that is started again after a kill: its first build is done, its second half done."""
    make(source, tmp_path / "out", split="validation")
    stop_before_the_end(monkeypatch, source, tmp_path / "out")
    work = {path: path.read_bytes() for path in (tmp_path / "out" / ".build").rglob("*") if path.is_file()}
    assert make(source, tmp_path / "out", split="validation").was_complete
    assert {path: path.read_bytes() for path in (tmp_path / "out" / ".build").rglob("*") if path.is_file()} == work
    make(source, tmp_path / "out")
    assert not (tmp_path / "out" / ".build").exists()


def test_what_a_finished_build_left_is_removed_by_the_next_wherever_it_was_killed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = build_module._clean
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_clean", lambda _: None)  # killed just before
        make(source, tmp_path / "before")
    assert (tmp_path / "before" / ".build").exists()
    for num_removals in itertools.count():
        left = iter(range(num_removals))

        def limit(remove: Callable[..., None], left: Iterator[int] = left) -> Callable[..., None]:
            def remove_or_die(*arguments: Any, **options: Any) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                remove(*arguments, **options)

            return remove_or_die

        def clean_until_killed(plan: BuildPlan, limit: Any = limit) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(os, "unlink", limit(os.unlink))
                patch.setattr(os, "rmdir", limit(os.rmdir))
                clean(plan)

        shutil.copytree(tmp_path / "before", output := tmp_path / f"{num_removals}")
        with monkeypatch.context() as patch:
            patch.setattr(build_module, "_clean", clean_until_killed)
            try:
                make(source, output)
                break
            except KeyboardInterrupt:
                pass
        assert make(source, output).was_complete
        assert not (output / ".build").exists(), num_removals
    assert num_removals > 3


@pytest.mark.parametrize("is_dry_run", [False, True])
def test_another_build_is_refused_before_it_touches_the_work_of_a_stopped_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_dry_run: bool
) -> None:
    stop_before_the_end(monkeypatch, source, tmp_path / "out")
    work = {path: path.read_bytes() for path in (tmp_path / "out" / ".build").rglob("*") if path.is_file()}
    shutil.copytree(source, tmp_path / "other")
    wanted = plan(tmp_path / "other", tmp_path / "out", split="validation")
    with pytest.raises(UserError, match=r"had other options or another source \(source: .*, split: train, now valid"):
        describe_plan(wanted) if is_dry_run else build(wanted)
    assert {path: path.read_bytes() for path in (tmp_path / "out" / ".build").rglob("*") if path.is_file()} == work


def test_two_builds_in_one_folder_are_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "LOCK_SECONDS", 0.1)
    with (
        build_module._lock(tmp_path / "out"),
        pytest.raises(UserError, match="another build is at work there"),
    ):
        make(source, tmp_path / "out")


def test_a_file_system_without_locks_is_built_on_all_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre that is mounted without `flock`, as many are."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    make(source, tmp_path / "undisturbed")
    monkeypatch.setattr(build_module.fcntl, "flock", refuse)
    monkeypatch.setattr(build_module, "Lock", partial(build_module.Lock, beat_seconds=0.05))
    with (
        build_module._lock(tmp_path / "out"),
        pytest.raises(UserError, match="another build is at work there"),
    ):
        make(source, tmp_path / "out")
    make(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_full_disk_without_locks_is_not_taken_for_another_build(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int, *_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(build_module.fcntl, "flock", partial(fail, errno.ENOSYS))
    monkeypatch.setattr("hornet.runs.lock.write_json", partial(fail, errno.ENOSPC))
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        make(source, tmp_path / "out")


def test_a_image_that_changed_since_it_was_listed_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe_plan(plan(source, tmp_path / "out"))
    (path,) = source.glob("cat/cat_7.p*")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"'cat_7.png' has \d+ bytes, \d+ when it was listed; the source was changed"):
        make(source, tmp_path / "out")


def test_a_dry_run_says_what_it_will_take_and_is_gone_on_from(source: Path, tmp_path: Path) -> None:
    said = describe_plan(plan(source, tmp_path / "out", selection=Selection(validation_per_class=1)))
    assert "12 images, " in said
    assert "in 2 classes of 5 to 7 (median 6)" in said
    assert "split        train: 10 images in 2 shards of " in said
    assert "split        validation: 2 images in 1 shards of " in said
    assert "measured on 12" in said
    assert not list((tmp_path / "out").glob("*.tar"))
    make(source, tmp_path / "out")
    make(source, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_gzip_archive_is_read_once_and_gives_the_same_tars(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as outer:
        for folder in sorted(source.iterdir()):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for path in folder.iterdir():
                    inner.add(path, path.name)
            member = tarfile.TarInfo(f"{folder.name}.tar")
            member.size = buffer.tell()
            buffer.seek(0)
            outer.addfile(member, buffer)
    said = describe_plan(plan(archive, tmp_path / "out", layout="tar-gz"))
    assert "can only be read from front to end" in said
    make(archive, tmp_path / "out", spool=tmp_path / "scratch", layout="tar-gz")
    make(source, tmp_path / "folders")
    tars = {name: content for name, content in contents(tmp_path / "folders").items() if name.endswith(".tar")}
    assert {name: content for name, content in contents(tmp_path / "out").items() if name in tars} == tars
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("names", [[], ["1.jpg"], ["cat/.hidden"]])
def test_a_wrong_source_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        put(tmp_path / "source", name)
    with pytest.raises(UserError, match="source"):
        make(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out" / "_info.json").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"samples_per_shard": 0}, "samples per shard: must be at least 1, not 0"),
        ({"num_workers": 0}, "workers: must be at least 1, not 0"),
        ({"split": "a/b"}, "split: must be usable in a file name, not 'a/b'"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        plan(tmp_path, tmp_path, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_said_and_gone_on_from(source: Path, tmp_path: Path, workers: int) -> None:
    for number in range(40):  # more than the limit below in each shard
        put(source, f"dog/large_{number}.png", encode(make_image(number, width=90, height=90)))
    make(source, tmp_path / "undisturbed", samples_per_shard=30)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="make room and start the command again, finished shards stay"):
            make(source, tmp_path / "out", samples_per_shard=30, num_workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    make(source, tmp_path / "out", samples_per_shard=30)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_only_what_is_taken_needs_space(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.3 TB of ImageNet-22K hold 0.15 TB of ImageNet-1K."""
    put(source, "whale/large.png", encode(make_image(0, width=900, height=900)))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    sizes = {path.parent.name: 0 for path in source.glob("*/*")}
    for path in source.glob("*/*"):
        sizes[path.parent.name] += path.stat().st_size
    options = {"classes": str(tmp_path / "classes.txt"), "selection": Selection(other_classes="drop")}
    has_free = SimpleNamespace(free=sizes["cat"] + sizes["dog"])
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda _: has_free)
    make(source, tmp_path / "out", **options)
    has_free.free -= 1
    with pytest.raises(UserError, match=r"the shards need about .* GB, .* GB are free; make room, then start again"):
        make(source, tmp_path / "other", **options)


def test_the_spools_full_disk_is_named(tmp_path: Path) -> None:
    """It is another one than that of the shards, where there may be room."""
    with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as tar:
        for number in range(40):
            content = encode(make_image(number, width=90, height=90))
            member = tarfile.TarInfo(f"dog/{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"scratch/pets-train-\w+-spool\.bin: File too large; make room and start"):
            make(tmp_path / "pets.tar.gz", tmp_path / "out", spool=tmp_path / "scratch")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert make(tmp_path / "pets.tar.gz", tmp_path / "out", spool=tmp_path / "scratch").manifest.splits["train"]


def fail_to_read(patch: pytest.MonkeyPatch, fails: Callable[[ListedImage], bool]) -> None:
    really_read = workplace.read_content

    def read(workplace: Workplace, listed: ListedImage, descriptors: dict[Path, int]) -> bytes:
        if fails(listed):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return really_read(workplace, listed, descriptors)

    patch.setattr(workplace, "read_content", read)
    patch.setattr(workplace, "SECOND_READ_SECONDS", 0.0)


def test_an_error_of_the_disk_that_passes_costs_no_image(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "undisturbed")
    seen: set[str] = set()
    fail_to_read(monkeypatch, lambda listed: listed.name not in seen and not seen.add(listed.name))  # type: ignore[func-returns-value]
    make(source, tmp_path / "out", num_workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_an_image_that_the_disk_cannot_read_is_dropped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_read(monkeypatch, lambda listed: listed.name == "dog_3.jpg")
    assert make(source, tmp_path / "out", num_workers=1).dropped == {"unreadable": 1}


def test_a_disk_that_went_away_ends_the_build_and_drops_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "undisturbed", samples_per_shard=9)
    with monkeypatch.context() as patch:
        fail_to_read(patch, lambda _: True)
        with pytest.raises(
            UserError, match=r"cannot be read \(Input/output error\); start again when it can, finished"
        ):
            make(source, tmp_path / "out", samples_per_shard=9, num_workers=1)
    make(source, tmp_path / "out", samples_per_shard=9)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("num_before", [1, 2, 4, 6])
def test_a_disk_that_went_away_within_a_shard_costs_no_image(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_before: int, packed: bool
) -> None:
    """The images before its end, which are fewer than are waited for, would be left out of a finished shard."""
    if packed:
        with tarfile.open(tmp_path / "pets.tar", "w") as tar:
            tar.add(source, ".")
        source = tmp_path / "pets.tar"
    make(source, tmp_path / "undisturbed")
    seen: set[str] = set()

    def is_away(listed: ListedImage) -> bool:
        if len(seen) < num_before:
            seen.add(listed.name)
            return False
        return True

    with monkeypatch.context() as patch:
        fail_to_read(patch, is_away)
        with pytest.raises(
            UserError, match=r"cannot be read \(Input/output error\); start again when it can, finished"
        ):
            make(source, tmp_path / "out", num_workers=1)
    report = make(source, tmp_path / "out", num_workers=1)
    assert report.dropped == {}
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_an_archive_that_went_away_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(source, ".")
    monkeypatch.setattr(build_module, "_check_space", lambda *_: (tmp_path / "pets.tar").unlink())
    with pytest.raises(UserError, match=r"pets\.tar: '.*' cannot be read \(No such file or directory\); start again"):
        make(tmp_path / "pets.tar", tmp_path / "out", num_workers=1)


def test_another_meaning_of_the_labels_is_listed_anew(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars", num_shards=1)
    for name, classes in (("first", "abcde"), ("second", "edcba")):
        (tmp_path / f"{name}.txt").write_text("\n".join(classes))
    describe_plan(plan(tmp_path / "tars", tmp_path / "out", classes=str(tmp_path / "first.txt")))
    make(tmp_path / "tars", tmp_path / "out", classes=str(tmp_path / "second.txt"))
    shards = open_shards(tmp_path / "out", "train")
    for number in range(shards.num_samples):
        sample = ShardReader(shards).read(number)
        assert sample.label == int(sample.key[-4:]) % 5, "the source's own number, whatever the classes are called"
    (tmp_path / "second.txt").write_text("\n".join("bacde"))
    with pytest.raises(UserError, match="is already there, and was made from another source or with other options"):
        make(tmp_path / "tars", tmp_path / "out", classes=str(tmp_path / "second.txt"))


def test_a_file_that_came_after_a_stop_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "finish_build", stop)
        with pytest.raises(KeyboardInterrupt):
            make(source, tmp_path / "out")
    put(source, "cat/zz_new.jpg")
    with pytest.raises(UserError, match="had other options or another source"):
        make(source, tmp_path / "out")


def test_spools_of_two_sets_in_one_folder_are_two_files(tmp_path: Path) -> None:
    plans = [plan(tmp_path / "x.tar.gz", tmp_path / name, spool=tmp_path / "spool") for name in ("one", "two")]
    assert plans[0].spool_path != plans[1].spool_path
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"spool: .*file is a file; give a folder"):
        plan(tmp_path, tmp_path / "out", spool=tmp_path / "file")


def test_a_split_that_came_while_another_waited_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = build_module.open_plan_source

    def open_late(wanted: BuildPlan) -> Any:
        if wanted.split == "validation":  # between the first look at the manifest and the lock
            make(source, tmp_path / "out")
        return opened(wanted)

    monkeypatch.setattr(build_module, "open_plan_source", open_late)
    report = make(source, tmp_path / "out", split="validation")
    assert set(report.manifest.splits) == {"train", "validation"}


def test_what_became_of_other_splits_during_a_build_stays(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build lasts hours; `index` and `verify --write-checksums` may be at work on its set meanwhile."""
    make(source, tmp_path / "out", split="validation")
    forget_checksums(tmp_path / "out", "validation")
    build_shards = build_module._write_shards

    def verify_meanwhile(*values: Any) -> None:
        build_shards(*values)
        fill_in(tmp_path / "out")

    monkeypatch.setattr(build_module, "_write_shards", verify_meanwhile)
    report = make(source, tmp_path / "out")
    assert set(report.manifest.splits) == {"train", "validation"}
    for split in ("train", "validation"):
        assert (open_shards(tmp_path / "out", split).records["crc"] != 0).all()


def test_another_label_space_that_came_during_a_build_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "tars", num_shards=1)
    build_shards = build_module._write_shards

    def index_meanwhile(*values: Any) -> None:
        build_shards(*values)
        index(tmp_path / "tars", split="validation", output=tmp_path / "out")

    monkeypatch.setattr(build_module, "_write_shards", index_meanwhile)
    with pytest.raises(UserError, match=r"_info\.json: its label space 'numbered' .* is not that of the new split"):
        make(source, tmp_path / "out")
    assert set(read_manifest(tmp_path / "out").splits) == {"validation"}


def test_an_output_within_the_source_and_classes_that_leave_nothing_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies within the source; choose an output folder outside"):
        make(source, source / "out")
    (tmp_path / "others.txt").write_text("emu\n")
    with pytest.raises(UserError, match="none of its classes is in the label space 'others'"):
        make(
            source,
            tmp_path / "out",
            classes=str(tmp_path / "others.txt"),
            selection=Selection(other_classes="drop"),
        )
