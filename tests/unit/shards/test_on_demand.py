"""Tars without a manifest: indexed when they are opened, once, in the folder that the user names."""

from __future__ import annotations

import errno
import fcntl
import io
import multiprocessing
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hornet.errors import UserError
from hornet.shards.indexing.tar_list import is_tar_list, list_tars
from hornet.shards.shard_set import open_shards
from hornet.shards.whole_set import open_whole_set
from tests.patience import PATIENCE
from tests.unit.shards.making import write_shards
from tests.unit.shards.whole_tars import write_whole_tars


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    write_shards(tmp_path / "tars", num_shards=3, samples_per_shard=4)
    return tmp_path / "tars"


def test_a_pattern_opens_as_the_indexed_set_does(tars: Path, tmp_path: Path, toy_set: Path) -> None:
    write_shards(tmp_path / "tars", num_shards=4)
    shards = open_shards(f"{tars}/toy-{{00..03}}.tar", "train", index=tmp_path / "index")
    known = open_shards(toy_set, "train")
    for column in ("offset", "span", "label"):
        assert np.array_equal(shards.records[column], known.records[column])
    assert not list(tars.glob("*.npy"))


def test_a_list_and_a_pattern_of_the_same_tars_share_an_index(tars: Path, tmp_path: Path) -> None:
    open_shards(f"{tars}/toy-*.tar", "train", index=tmp_path / "index")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.npy")}
    shards = open_shards([f"{tars}/toy-0{number}.tar" for number in range(3)], "train", index=tmp_path / "index")
    assert shards.num_samples == 12
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*.npy")} == before


@pytest.mark.parametrize("open_set", [open_shards, open_whole_set])
def test_an_index_that_is_there_is_only_read(tars: Path, tmp_path: Path, open_set: Any) -> None:
    """A team's folder of indexes, made by one of them."""
    open_set(tars / "toy-00.tar", split_name="train", index=tmp_path / "index")
    for lock in (tmp_path / "index").glob("*.lock"):
        lock.unlink()
        lock.mkdir()  # so that nobody, not even root, can write it
    open_set(tars / "toy-00.tar", split_name="train", index=tmp_path / "index")


def test_a_folder_without_locks_is_refused_with_the_way_out(tars: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"\(Function not implemented\); give another folder as index"):
        open_shards(tars / "toy-00.tar", "train", index=tmp_path / "index")


def test_without_a_folder_the_index_is_kept_at_home(tars: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_shards(tars / "toy-00.tar", "train")
    assert list((tmp_path / "home/.cache/hornet/indexes").rglob("train.index.npy"))


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_how_far_the_indexing_is_and_a_log_is_not(
    tars: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for stream, folder, is_shown in (
        (Terminal(), "first", True),
        (Terminal(), "first", False),  # it is there already
        (io.StringIO(), "second", False),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        open_shards(f"{tars}/toy-*.tar", "train", index=tmp_path / folder)
        assert ("3/3" in stream.getvalue(), bool(stream.getvalue())) == (is_shown, is_shown)


def test_a_tar_that_changed_since_is_told(tars: Path, tmp_path: Path) -> None:
    open_shards(f"{tars}/toy-*.tar", "train", index=tmp_path / "index")
    write_shards(tars, num_shards=3, samples_per_shard=5)
    with pytest.raises(UserError, match=r"toy-00.tar: has \d+ bytes, the manifest says \d+; .* \(or remove .*/index/"):
        open_shards(f"{tars}/toy-*.tar", "train", index=tmp_path / "index")


def test_a_folder_for_the_index_is_refused_for_a_set_that_has_its_own(toy_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^index: is a folder for .* named by a pattern, and .* leave it out"):
        open_shards(toy_set, "train", index=tmp_path)


def _open_and_count(paths: list[str], index: Path, started: Any, results: Any) -> None:
    from hornet.shards import whole_set

    scan, scans = whole_set.scan_tars, []

    def counted(*args: Any, **options: Any) -> Any:
        scans.append(1)
        return scan(*args, **options)

    whole_set.scan_tars = counted  # type: ignore[assignment]
    started.wait()
    num_samples = whole_set.open_whole_set(paths, index=index).shards.num_samples
    results.put((num_samples, len(scans)))


def test_processes_that_start_together_index_once(tmp_path: Path) -> None:
    paths = write_whole_tars(tmp_path / "tars")
    context = multiprocessing.get_context("fork")
    started, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_open_and_count, args=(paths, tmp_path / "index", started, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join()
    assert [num_samples for num_samples, _ in found] == [40] * 3
    assert sum(num_scans for _, num_scans in found) == 1


def test_an_index_costs_20_bytes_a_sample(tmp_path: Path) -> None:
    open_whole_set(write_whole_tars(tmp_path / "tars"), index=tmp_path / "index")
    (path,) = (tmp_path / "index").glob("*.npy")
    assert path.stat().st_size == 192 + 40 * 20  # numpy's header, and the records


def test_names_are_expanded_as_webdataset_does(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("a/x-0.tar", "a/x-1.tar", "b/x-0.tar", "b/{odd}.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert list_tars("{a,b}/x-0.tar::a/x-1.tar").shards == ("a/x-0.tar", "b/x-0.tar", "a/x-1.tar")
    assert list_tars(["a/*.tar"]).shards == ("x-0.tar", "x-1.tar")
    assert list_tars("b/{odd}.tar").shards == ("{odd}.tar",)
    remote = list_tars(["https://host/p/a/0.tar", "https://host/p/b/0.tar"])
    assert (remote.folder.place, remote.shards) == ("https://host/p", ("a/0.tar", "b/0.tar"))


def test_a_folder_is_no_list_of_tars_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "set{1}.tar").mkdir()
    assert not is_tar_list(tmp_path / "set{1}.tar")
    assert not is_tar_list("s3://bucket/set")
    assert is_tar_list("s3://bucket/set-{0..9}.tar")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("pipe:cat x.tar", r"pipe:cat x.tar: no list of tars may name a command to run; give the URLs"),
        ("nothing-*.tar", r"names no tar that is there; give a pattern such as 'tars/set-\{000..127\}.tar'"),
        (["x.tar", "x.tar"], r"x.tar: is named twice, and each sample comes once in an epoch; name it once"),
        (["https://a/x.tar", "https://b/x.tar"], r"must be on one server, or all on local disks"),
        (["https://a/x.tar", "x.tar"], r"must be on one server, or all on local disks"),
    ],
)
def test_what_is_no_list_of_tars_is_told(place: Any, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        list_tars(place)


def test_a_folder_that_cannot_be_written_to_is_told(tars: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be written to \(.*\); give another folder as index"):
        open_shards(f"{tars}/toy-*.tar", "train", index=tmp_path / "file")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg", "a.txt"], r"byte 2048: the members of 'a' do not stand together, and webdataset"),
        (["a.jpg", "a.JPG"], r"byte 1024: a second .jpg of 'a'; a sample holds one of each extension"),
        (["README"], r"holds no sample: no plain file KEY.EXTENSION; take it out of the list"),
    ],
)
def test_tars_of_which_webdataset_would_make_something_else_are_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(UserError, match=message):
        open_whole_set(tmp_path / "x.tar", index=tmp_path / "index")


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    path = Path(write_whole_tars(tmp_path / "tars", (4,))[0])
    content = path.read_bytes()
    for size in (len(content) - 10240, 3 * 512, 512 * 9 + 100):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"any-00.tar: byte \d+: .*(cut|ends)"):
            open_whole_set(path, index=tmp_path / "index")
