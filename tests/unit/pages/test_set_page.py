"""Sets in words and on a page: the numbers are right, names of strangers are harmless, damage is shown."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hornet.pages.set.charts import render_curve, render_histogram, render_scatter
from hornet.pages.set.page import write_set_page
from hornet.pages.set.survey import SplitSurvey, survey_split
from hornet.quantities import shorten
from hornet.shards.index import RECORD, ShardIndex
from hornet.shards.label_report import find_meaning
from hornet.shards.label_space import LabelSpace
from hornet.shards.manifest import Manifest, read_manifest
from hornet.shards.split_writing import add_split
from hornet.shards.summary import describe_origin, describe_set, read_image_bytes
from tests.patience import PATIENCE
from tests.unit.shards.making import (
    NOT_AN_IMAGE,
    encode,
    flip_bit,
    index,
    make_image,
    make_set,
    write_shard,
    write_shards,
)

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "n01440764", "d&d", "'quoted'"]


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def make_evil_set(folder: Path, *, damaged: bool = False) -> Path:
    """Names of classes and keys from a stranger."""
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(EVIL) + "\n")
    samples = [(f"<b onclick=x>{number}", "png", encode(make_image(number)), number % 5) for number in range(9)]
    if damaged:
        samples.append(("broken", "jpg", NOT_AN_IMAGE, 3))
    write_shard(folder / "evil-<i>.tar", samples)
    return index(folder, classes=folder / "classes.txt")


def write_page_of(folder: Path, path: Path) -> tuple[str, list[SplitSurvey]]:
    surveys = write_set_page(read_manifest(folder), path)
    return path.read_text(), surveys


# In words


def test_text_says_counts_sizes_and_origin(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("ant\nbee\ncat\n")
    samples = [(f"s{number}", "png", bytes([number]) * (1000 + number), int(number > 6)) for number in range(10)]
    write_shard(tmp_path / "a.tar", samples)
    text = describe_set(read_manifest(index(tmp_path, classes=tmp_path / "c.txt")))
    assert (
        "classes      train: 0 / 3 / 7 images a class (fewest, median, most); largest ant 7, bee 3; "
        "smallest cat 0, bee 3; 1 without images"
    ) in text
    assert re.search(
        r"images       train: \S+ kB / \S+ kB / \S+ kB an image with its header \(1 %, median, 99 %\)", text
    )
    assert f"origin       train: index of {tmp_path}" in text


def test_bytes_are_those_of_the_index(toy_set: Path) -> None:
    manifest = read_manifest(toy_set)
    sizes = read_image_bytes(manifest, manifest.split("train"))
    assert sizes is not None
    assert sizes.tolist() == np.load(toy_set / "train.index.npy")["span"].tolist()


def test_origin_in_a_line() -> None:
    origin = {"command": "subset", "source": "/a", "options": {"fraction": 0.1, "seed": 0}, "counts": {"kept": 5}}
    assert describe_origin(origin) == "subset of /a (fraction 0.1, seed 0); 5 kept"
    built = {"command": "build", "plan": {"source": "/raw"}, "dropped": {"undecodable": 2}}
    assert describe_origin(built) == "build of /raw; dropped 2 undecodable"


def test_a_missing_index_is_said(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "a")
    (folder / "train.index.npy").unlink()
    assert "images       train: the index train.index.npy is missing" in describe_set(read_manifest(folder))


# The survey


def test_survey_is_the_same_each_time_and_knows_the_images(toy_set: Path) -> None:
    manifest = read_manifest(toy_set)
    one, other = (survey_split(manifest, "train", num_read=20, num_shown=6) for _ in range(2))
    assert one.tiles == other.tiles
    assert len(one.tiles) == 6
    assert one.sizes.tolist() == [[26, 20]] * 20
    assert one.class_counts.tolist() == [10, 10, 10, 9, 9]
    assert all(tile.thumbnail.startswith("data:image/jpeg;base64,") for tile in one.tiles)


def test_damaged_samples_are_shown_as_such(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", num_shards=1, replaced={4: NOT_AN_IMAGE})
    folder = index(tmp_path / "a")
    record = np.load(folder / "train.index.npy")[0]
    flip_bit(folder / "toy-00.tar", byte=int(record["offset"]) + int(record["span"]) - 3)
    page, surveys = write_page_of(folder, tmp_path / "page.html")
    assert len(surveys[0].damaged) == 2
    assert len(surveys[0].sizes) == 10
    assert "2 of the 12 sampled images are damaged" in page
    assert "no image (UnidentifiedImageError)" in page
    assert "damaged bytes" in page


def test_synsets_are_explained() -> None:
    assert find_meaning("n01440764") == "tench, Tinca tinca"
    assert find_meaning("n99999999") is None
    assert find_meaning("tench") is None


# The page


def test_page_is_self_contained_and_names_are_harmless(tmp_path: Path) -> None:
    page, _ = write_page_of(make_evil_set(tmp_path / "evil", damaged=True), tmp_path / "page.html")
    read = Reader(page)
    assert not read.tags & {"script", "b", "i", "link", "iframe", "object"}
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    addresses = [value or "" for name, value in read.attributes if name in ("src", "href")]
    assert addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    assert not re.search(r"url\(|https?://|@import", page)
    for name in (EVIL[0], EVIL[1], "tench, Tinca tinca (n01440764)", "d&d", "evil-<i>/broken"):
        assert name in read.text


def test_page_tells_label_space_and_splits(toy_set: Path, tmp_path: Path) -> None:
    page, _ = write_page_of(toy_set, tmp_path / "deep" / "page.html")
    manifest = read_manifest(toy_set)
    assert manifest.label_space.fingerprint in page
    assert page.count("<figure") == 48
    assert page.count("<svg") == 4
    assert "prefers-color-scheme: dark" in page
    assert "48 at random" in page


@pytest.mark.slow
def test_page_of_many_classes_reads_samples_only(tmp_path: Path) -> None:
    """21,841 classes and an index of 300,000 samples, most of which no tar holds."""
    write_shards(tmp_path, num_shards=1)
    source = read_manifest(index(tmp_path)).split("train")
    found = np.load(tmp_path / "train.index.npy")
    records = np.resize(found, 300_000).astype(RECORD)
    records["label"] = np.sqrt(np.arange(300_000)).astype(int) * 39
    space = LabelSpace(name="large", classes=tuple(f"n{number:08d}" for number in range(21_841)))
    manifest = Manifest(path=tmp_path / "view" / "_info.json", name="large", label_space=space, splits={})
    manifest.path.parent.mkdir()
    shard = ShardIndex(records=records, num_bytes=source.shard_bytes[0], sha256=None)
    manifest = add_split(
        manifest, split="train", shard_folder=str(tmp_path), shards=source.shards, indexes=[shard], origin={}
    )
    page, surveys = write_page_of(manifest.path.parent, tmp_path / "page.html")
    assert surveys[0].num_read == 1000
    assert "n00021840" in page
    assert len(page) < 4_000_000


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_charts_show_any_numbers_within_the_frame(values: list[int]) -> None:
    numbers = np.array(values)
    charts = [render_curve(numbers), render_histogram(numbers, title="t", x_name="x", format_tick=shorten)]
    charts.append(render_scatter(np.maximum(np.stack([numbers, numbers[::-1]], axis=1), 1)))
    for chart in charts:
        assert "nan" not in chart
        assert "inf" not in chart
        places = [float(x) for x in re.findall(r'(?:cx|x)="([-\d.]+)"', chart)]
        heights = [float(y) for y in re.findall(r'(?:cy|y)="([-\d.]+)"', chart)]
        assert all(0 <= x <= 440 for x in places)
        assert all(0 <= y <= 231 for y in heights)


def test_histogram_counts_all_values() -> None:
    values = np.array([1, 1, 10, 100, 1000, 1000])
    chart = render_histogram(values, title="t", x_name="x", format_tick=shorten)
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', chart)]
    assert len(heights) == 4
    assert sum(heights) / max(heights) * 2 == pytest.approx(6, abs=0.05)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no chromium or google-chrome on PATH"
)
def test_a_browser_shows_the_page_and_runs_nothing(tmp_path: Path) -> None:
    write_page_of(make_evil_set(tmp_path / "evil"), tmp_path / "page.html")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or ""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "page.png"
    address = (tmp_path / "page.html").as_uri()
    options = [f"--screenshot={shot}", "--window-size=500,900", address]
    subprocess.run([*command, *options], capture_output=True, timeout=PATIENCE, check=True)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # cards, text, charts: not a blank page
    done = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert not Reader(done.stdout).tags & {"script", "b", "i"}
