"""Which files of a source are pictures, and an account of those that are not."""

from __future__ import annotations

from collections import Counter

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})

KNOWN_SPLITS = frozenset({"train", "validation", "val", "test"})
"""Words in the names of tars, between dashes."""


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by its extension; what it really is shows when it is decoded.

    Hidden ones are not: tars made on macOS hold a `._NAME.JPEG` beside each NAME.JPEG.
    """
    return not name.rpartition("/")[2].startswith(".") and get_extension(name) in EXTENSIONS


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
        self._num_links, self._first_link = 0, ""

    def add(self, name: str) -> None:
        """Note a file that is not taken."""
        extension = get_extension(name)
        self._counts[extension] += 1
        self._first.setdefault(extension, name)

    def add_link(self, name: str) -> None:
        """Note a picture's name whose content is elsewhere: a link, a device."""
        self._num_links += 1
        self._first_link = self._first_link or name

    @property
    def remarks(self) -> tuple[str, ...]:
        """One line for each extension."""
        links = (
            f"{self._where}: {self._num_links} pictures are links and were passed over, {self._first_link!r} for one"
        )
        return tuple(
            f"{self._where}: {count} files "
            + (f"of type .{extension}" if extension else "without an extension")
            + f" were passed over, {self._first[extension]!r} for one"
            for extension, count in sorted(self._counts.items())
        ) + ((links,) if self._num_links else ())
