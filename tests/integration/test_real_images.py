"""Real images of every mode and size, in the archives in which ImageNet comes: converted, verified, trained on.

They are Debian's openclipart-png, as `launch/openclipart.py` fetches it; without that package these are skipped.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from hornet.cli.openclipart import find_tree
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.errors import UserError
from hornet.shards.build.build import build
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.selection import Selection
from hornet.shards.build.tar_writer import EncodedSample, write_shard
from hornet.shards.check.verify import VerifyPlan, verify_set
from hornet.shards.label_space import LabelSpace
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from hornet.world import ALONE
from tests.integration.conftest import PRETRAIN, ROOT, run_python, write_config
from tests.unit.shards.test_sources import write_devkit

pytestmark = pytest.mark.slow

NUM_CLASSES, PER_CLASS = 6, 14
CONTENT = {"leakage"}  # clip art holds some images twice
BAD = {"zero.png", "torn.jpg", "text.png"}


@pytest.fixture(scope="module")
def tree():
    """The unpacked package, fetched once into data/openclipart."""
    try:
        return find_tree(ROOT / "data/openclipart", None)
    except UserError as error:
        pytest.skip(f"openclipart-png cannot be had: {error}")


@pytest.fixture(scope="module")
def images(tree):
    """{class: {name: bytes}}: one image of each mode and the odd sizes first, and every kind of trouble."""
    folders = sorted({path.parent for path in tree.rglob("*.png")})
    chosen = {}
    for folder in folders:
        paths = [
            path for path in sorted(folder.glob("*.png")) if not path.is_symlink() and path.stat().st_size < 99_000
        ]
        if len(paths) >= PER_CLASS and len(chosen) < NUM_CLASSES:
            name = f"n{len(chosen):08d}"
            chosen[name] = {f"{name}_{number}.png": path.read_bytes() for number, path in enumerate(paths[:PER_CLASS])}
    assert len(chosen) == NUM_CLASSES
    first, second, third, *_ = chosen.values()
    some = Image.open(io.BytesIO(next(iter(first.values())))).convert("RGB").resize((90, 61))
    first["cmyk.jpg"] = save(some.convert("CMYK"), "JPEG")
    first["packed.JPEG"] = gzip.compress(save(some, "JPEG"))
    first["grey.jpeg"] = save(some.convert("L"), "JPEG")
    second["deep.png"] = save(Image.fromarray(np.asarray(some.convert("L"), np.uint16) * 257), "PNG")
    second["moving.gif"] = save(some, "GIF", save_all=True, append_images=[some.rotate(90)])
    second["really_a.jpg"] = save(some, "PNG")
    third["palette.png"] = save(some.convert("P"), "PNG", transparency=3)
    third["tiny.png"] = save(some.resize((1, 3)), "PNG")
    third["old.bmp"] = save(some, "BMP")
    first["zero.png"] = b""
    second["torn.jpg"] = save(some.resize((900, 610)), "JPEG")[:9000]
    third["text.png"] = b"not an image"
    return chosen


def save(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def make_tar(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_archive(layout, images, folder):
    """Write the images in a layout; return its path."""
    flat = {f"{name}/{file}": content for name, files in images.items() for file, content in files.items()}
    tars = {f"{name}.tar": make_tar(files) for name, files in images.items()}
    if layout == "image-folder":
        for name, content in flat.items():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes(content)
        return folder / "tree"
    if layout == "folder-of-tars":
        (folder / "tars").mkdir()
        for name, content in tars.items():
            (folder / "tars" / name).write_bytes(content)
        return folder / "tars"
    contents = {
        "tar-of-tars": ("fall11_whole.tar", tars, "w"),
        "tar-gz": ("winter21_whole.tar.gz", tars, "w:gz"),
        "tar-of-folders": ("train.tar", flat, "w"),
    }
    name, members, mode = contents[layout]
    (folder / name).write_bytes(make_tar(members, mode))
    return folder / name


def make_set(source, output, **options):
    return build(
        BuildPlan(
            source=source,
            output=output,
            name="clips",
            samples_per_shard=20,
            selection=Selection(validation_per_class=2),
            **options,
        )
    )


def verify(output):
    plan = VerifyPlan(folder=output, split=None, num_workers=2, report=None, decode=True, write_checksums=False)
    report = verify_set(plan)
    assert not [finding for finding in report.examples if finding.kind not in CONTENT], report.examples


def check(output, images):
    """The set is sound, holds what it should, and every sample of an epoch comes out of the stream."""
    verify(output)
    train, validation = open_shards(output, "train"), open_shards(output, "validation")
    assert validation.num_samples == 2 * NUM_CLASSES
    assert train.num_samples == sum(map(len, images.values())) - validation.num_samples - len(BAD)
    config = StreamConfig(shards=output, transform=TransformConfig(image_size=32), partial_batch="carry")
    stream = open_train_stream(config, world=ALONE, seed=0, global_batch_size=8, micro_batch_size=8)
    batches = list(stream.iterate(0, 10))
    assert not any(batch.bad_samples for batch in batches)
    assert len({digest for batch in batches for digest in batch.key_hashes.tolist()}) == 80
    stream.close()


@pytest.mark.parametrize("layout", ["image-folder", "tar-of-tars", "folder-of-tars", "tar-of-folders", "tar-gz"])
def test_each_layout_converts_verifies_and_streams(layout, images, tmp_path):
    source = make_archive(layout, images, tmp_path)
    report = make_set(source, tmp_path / "set")
    (notes,) = [path for path in report.notes if "train" in path.name]
    listed = [json.loads(line) for line in notes.read_text().splitlines()]
    assert {note["name"] for note in listed if note["action"] == "dropped"} == BAD
    assert [note["name"] for note in listed if note["action"] == "mended"] == ["packed.JPEG"]
    check(tmp_path / "set", images)


def test_all_layouts_give_the_same_tars(images, tmp_path):
    tars = {}
    for layout in ("image-folder", "tar-of-tars", "tar-gz"):
        (tmp_path / layout).mkdir()
        make_set(make_archive(layout, images, tmp_path / layout), tmp_path / layout / "set")
        tars[layout] = {path.name: path.read_bytes() for path in (tmp_path / layout / "set").glob("*.tar")}
    assert tars["image-folder"] == tars["tar-of-tars"] == tars["tar-gz"]


def test_sets_made_by_others_convert_verify_and_stream(images, tmp_path):
    names = tuple(images)
    samples = [
        EncodedSample(stem=f"{name}/{Path(file).stem}", extension="png", image=content, label=names.index(name))
        for name, files in images.items()
        for file, content in files.items()
        if file.endswith(".png")
    ]
    (tmp_path / "wds").mkdir()
    write_shard(tmp_path / "wds" / "clips-0000.tar", samples)
    (tmp_path / "names.txt").write_text("\n".join(names))
    report = make_set(tmp_path / "wds", tmp_path / "from-wds", classes=str(tmp_path / "names.txt"))
    assert report.manifest.label_space == LabelSpace(name="names", classes=names)
    verify(tmp_path / "from-wds")

    rows = {
        "image": [{"bytes": sample.image or b"empty", "path": None} for sample in samples],
        "label": [sample.label for sample in samples],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "train-00000-of-00001.parquet")
    make_set(tmp_path / "train-00000-of-00001.parquet", tmp_path / "from-parquet", classes=str(tmp_path / "names.txt"))
    first, second = (open_shards(tmp_path / name, "train") for name in ("from-wds", "from-parquet"))
    assert first.split.class_counts == second.split.class_counts


def test_ilsvrc_validation_needs_no_sorting_by_hand(images, tmp_path):
    contents = [content for files in images.values() for name, content in files.items() if name.endswith(".png")]
    good = [content for content in contents if content.startswith(b"\x89PNG")]
    truth = [1 + number % 1000 for number in range(len(good))]
    members = {f"ILSVRC2012_val_{number + 1:08d}.JPEG": content for number, content in enumerate(good)}
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(make_tar(members))
    plan = BuildPlan(
        source=tmp_path / "ILSVRC2012_img_val.tar",
        output=tmp_path / "set",
        name="in1k",
        split="validation",
        devkit=write_devkit(tmp_path, truth),
    )
    build(plan)
    verify(tmp_path / "set")
    shards = open_shards(tmp_path / "set", "validation")
    reader = ShardReader(shards)
    for number in range(shards.num_samples):
        sample = reader.read(number)
        position = int(sample.key[-8:]) - 1
        assert sample.image == good[position], "PNGs named .JPEG, as one of ILSVRC is"
        assert shards.label_space.classes[sample.label] == f"n{9_000_000 - (truth[position] - 1):08d}"


def test_a_cut_tar_within_is_refused_or_salvaged(images, tmp_path):
    tars = {f"{name}.tar": make_tar(files) for name, files in images.items()}
    tars["n00000003.tar"] = tars["n00000003.tar"][: len(tars["n00000003.tar"]) // 2]
    (tmp_path / "whole.tar").write_bytes(make_tar(tars))
    with pytest.raises(UserError, match=r"whole.tar: n00000003: byte \d+: .*cut.*--damaged-parts salvage"):
        make_set(tmp_path / "whole.tar", tmp_path / "set")
    report = make_set(tmp_path / "whole.tar", tmp_path / "set", damaged_parts="salvage")
    assert any("n00000003" in remark and "images before are taken" in remark for remark in report.remarks)
    counts = np.array(report.manifest.splits["train"].class_counts)
    assert 0 < counts[3] < PER_CLASS - 2 == counts[4]


def test_a_run_trains_on_them(images, tmp_path):
    source = make_archive("tar-of-tars", images, tmp_path)
    run_python(
        "launch/shards.py", "build", source, tmp_path / "set", "--validation-per-class", 2, "--samples-per-shard", 20
    )
    config = write_config(tmp_path, PRETRAIN, shards=tmp_path / "set", schedule__num_epochs=1)
    run_python(ROOT / "launch/pretrain.py", "--config", config)
    summary = json.loads((tmp_path / "runs/pretrain/summary.json").read_text())
    assert summary["steps"] == (sum(map(len, images.values())) - 2 * NUM_CLASSES - len(BAD)) // 8
