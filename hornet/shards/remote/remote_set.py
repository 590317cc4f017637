"""Manifest and index of a set at a URL, brought to a local folder."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path

from hornet.durable import hash_file, write_bytes
from hornet.errors import UserError
from hornet.shards.manifest import MANIFEST_NAME, read_manifest
from hornet.shards.remote.files import RemoteConfig, RemoteFiles


def fetch_set(url: str, split_name: str, config: RemoteConfig) -> Path:
    """Return a local folder with the manifest at `url` and the index of one of its splits, as they are there now.

    Raises UserError, also if the manifest names an index outside of the set's folder.
    """
    files = RemoteFiles(config)
    url = url.rstrip("/")
    folder = (config.cache or _find_home()) / "sets" / hashlib.sha256(url.encode()).hexdigest()[:40]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the ranks of a node start together, and one download is enough
            return _fetch(files, url, split_name, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another data.remote.cache") from error


def _fetch(files: RemoteFiles, url: str, split_name: str, folder: Path) -> Path:
    write_bytes(folder / MANIFEST_NAME, _read(files, f"{url}/{MANIFEST_NAME}"))
    split = read_manifest(folder).split(split_name)
    if split.index != Path(split.index).name:
        raise UserError(f"{url}/{MANIFEST_NAME}: splits.{split_name}.index is {split.index!r}, not a file's name")
    index = folder / split.index
    if not index.exists() or hash_file(index) != split.index_sha256:
        write_bytes(index, _read(files, f"{url}/{split.index}"))
    return folder


def _read(files: RemoteFiles, url: str) -> bytes:
    try:
        return files.read_all(url)
    except FileNotFoundError as error:
        raise UserError(
            f"{url}: is not there; give the URL of a set's folder, or index its tars into a local one with "
            "`python launch/shards.py index URL --output FOLDER`"
        ) from error


def _find_home() -> Path:
    return Path.home() / ".cache/hornet"
