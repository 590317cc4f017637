"""One job at a time in a run directory: who trains there says so in owner.json, and touches it every few seconds.

A job that was killed leaves the file behind. It is taken over at once if its process is known to be gone, and after a
time of silence if that cannot be known, as on another host or in another container. Ages are taken between two files of
the same disk, so the hosts' clocks do not matter.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from hornet.durable import write_json
from hornet.errors import UserError

FILE = "owner.json"


class Lock:
    """The right to write into a folder, held for the length of a `with` block."""

    def __init__(self, folder: Path, *, beat_seconds: float = 10.0, silence_seconds: float = 45.0) -> None:
        """Whoever has been silent for `silence_seconds` is taken for dead."""
        self._path = folder / FILE
        self._beat_seconds = beat_seconds
        self._silence_seconds = silence_seconds
        self._token = secrets.token_hex(8)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)

    def __enter__(self) -> Lock:
        """Wait until nobody else is at work here, which takes half a second where nobody was.

        Raises UserError if somebody is, has come at the same moment, or the folder cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._wait_for_silence()
            owner = {"token": self._token, "host": platform.node(), "processes": _name_processes(), "pid": os.getpid()}
            write_json(self._path, {**owner, "since": time.time()})
        except OSError as error:
            raise UserError(f"{self._path.parent}: the run directory cannot be written: {error.strerror}") from error
        time.sleep(self._beat_seconds / 20)
        if not self.is_held():  # two have found nobody at the same moment: the later one stays
            raise self._describe_other()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the right back."""
        self._is_over.set()
        self._thread.join()
        if self.is_held():
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Return whether nobody has taken over since; True as well while the disk does not answer."""
        owner = self._read()
        return owner is None or owner.get("token") == self._token

    def require(self) -> None:
        """Raise UserError if somebody has taken over."""
        if not self.is_held():
            raise UserError(
                f"{self._path.parent}: {_describe(self._read() or {})} has taken this run over, since this job showed "
                "no sign of life; this one ends, so that the two do not write over each other"
            )

    def find_owner(self) -> str | None:
        """Return who seems to be at work here, in words; None if nobody is. Takes no time, and may be out of date."""
        try:
            beat = self._read_beat()
            if beat is None or self._is_gone() or self._measure_age(beat) > self._silence_seconds:
                return None
        except OSError:
            return None
        return _describe(self._read() or {})

    def _wait_for_silence(self) -> None:
        deadline = time.monotonic() + self._silence_seconds
        seen = self._read_beat()
        while (beat := self._read_beat()) is not None and not self._is_gone():
            if beat != seen:
                raise self._describe_other()
            if time.monotonic() > deadline or self._measure_age(beat) > self._silence_seconds:
                return
            time.sleep(self._beat_seconds / 20)

    def _describe_other(self) -> UserError:
        return UserError(
            f"{self._path.parent}: {_describe(self._read() or {})} is training this run; stop it first "
            f"(touch {self._path.parent / 'STOP'}), or choose another run.name"
        )

    def _is_gone(self) -> bool:
        """Whether the owner's process is known to have ended."""
        import psutil  # not above: who reads a run's weights holds no lock, and may have the models alone

        owner = self._read()
        here = _name_processes()
        if owner is None or owner.get("host") != platform.node() or owner.get("processes", here) != here:
            return False
        try:
            return psutil.Process(owner.get("pid")).status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, TypeError, ValueError):
            return True

    def _measure_age(self, beat: float) -> float:
        """Seconds since `beat`, by the clock of the disk."""
        probe = self._path.with_name(f".{FILE}.{self._token}.probe")
        probe.touch()
        age = probe.stat().st_mtime - beat
        probe.unlink()
        return age

    def _read_beat(self) -> float | None:
        try:
            return self._path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _read(self) -> dict[str, Any] | None:
        """Return what owner.json says; None if there is none, or it cannot be read now."""
        try:
            owner = json.loads(self._path.read_bytes())
        except OSError:
            return None
        except ValueError:
            return {}
        return owner if isinstance(owner, dict) else {}

    def _beat(self) -> None:
        while not self._is_over.wait(self._beat_seconds):
            with suppress(OSError):  # a disk that does not answer for a while is no reason to end a run
                if self.is_held():
                    os.utime(self._path)


def _name_processes() -> str | None:
    """Return which processes those of this container are: others may have the same host and the same number."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return None


def _describe(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'another host')}"
