"""Which files of a source are pictures, and an account of those that are not."""

from __future__ import annotations

from collections import Counter

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by its extension; what it really is shows when it is decoded."""
    return get_extension(name) in EXTENSIONS


def get_extension(name: str) -> str:
    """Return what stands behind the last dot of a path's last part, in lower case."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base else ""


class PassedOver:
    """Counts what is no picture, so that nothing is left out in silence."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Note a file that is not taken."""
        extension = get_extension(name)
        self._counts[extension] += 1
        self._first.setdefault(extension, name)

    @property
    def remarks(self) -> tuple[str, ...]:
        """One line for each extension."""
        return tuple(
            f"{self._where}: {count} files "
            + (f"of type .{extension}" if extension else "without an extension")
            + f" were passed over, {self._first[extension]!r} for one"
            for extension, count in sorted(self._counts.items())
        )
