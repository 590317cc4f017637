"""`corruptions=true` from command line to files: a small network on a tiny set, counted again by hand."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch

import hornet  # noqa: F401  registers the models
from hornet.cli import evaluate as command
from hornet.config import ConfigError
from hornet.data.augment.mixing import normalise
from hornet.data.config import MixingConfig
from hornet.data.corruptions.corruption import Corruption
from hornet.data.loader import open_evaluation_stream
from hornet.world import ALONE
from tests.unit.shards.making import make_set

pytestmark = pytest.mark.slow

NAMES = ("frost", "fog", "jpeg_compression")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, alone):
    """Within this process's group."""
    folder = tmp_path_factory.mktemp("corrupted")
    torch.manual_seed(0)
    model = timm.create_model("hornet_zepto_7x7", num_classes=5, width=8, depths=(1, 1, 1, 1)).eval()
    torch.save(model.state_dict(), folder / "weights.pth")
    overrides = [
        f"evaluation.shards={make_set(folder / 'set')}",
        "evaluation.split=train",
        "evaluation.image_size=32",
        "model=hornet_zepto_7x7",
        "arguments={width: 8, depths: [1, 1, 1, 1]}",
        "corruptions=true",
        f"corruption_names=[{','.join(NAMES)}]",
        f"output={folder / 'out'}",
    ]
    config = command.read_config(folder / "weights.pth", config=None, overrides=overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hornet.stages.evaluation.open_process_group", lambda *_arguments, **_names: nullcontext())
        command.report(config, as_json=False)
    return config, model, folder / "out"


def test_each_severity_is_counted_on_images_that_were_made(evaluated):
    config, model, folder = evaluated
    results = json.loads((folder / "evaluation.json").read_text())["results"]
    names = [None, *(f"{name}/{severity}" for name in NAMES for severity in range(1, 6))]
    assert sorted(row["corruption"] or "" for row in results) == sorted(name or "" for name in names)
    rows = {row["corruption"]: row for row in results}
    assert {row["num_images"] for row in results} == {48}
    batches = list(open_evaluation_stream(config.evaluation, world=ALONE).iterate())
    mixing = MixingConfig()
    for name in (None, "fog/3", "jpeg_compression/5"):
        losses, hits = [], 0
        for batch in batches:
            pixels = batch.images_bchw.permute(0, 2, 3, 1).numpy()
            if name is not None:
                corruption = Corruption(name=name[:-2], severity=int(name[-1]))
                pixels = np.stack([corruption(one, key=key) for one, key in zip(pixels, batch.keys, strict=True)])
            images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
            images = (images - torch.tensor(mixing.mean).view(3, 1, 1)) / torch.tensor(mixing.std).view(3, 1, 1)
            assert name or torch.allclose(
                images, normalise(batch, mean=mixing.mean, std=mixing.std, device=torch.device("cpu")), atol=1e-5
            )
            with torch.no_grad():
                logits, labels = model(images)[batch.is_real], batch.labels[batch.is_real]
            hits += int((logits.argmax(1) == labels).sum())
            losses += torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
        assert rows[name]["top1"] == pytest.approx(100 * hits / 48)
        assert rows[name]["loss"] == pytest.approx(sum(losses) / 48, rel=1e-4)
    assert rows["fog/3"]["loss"] != rows[None]["loss"]


def test_the_means_are_those_of_the_rows_and_departures_are_told(evaluated):
    _, _, folder = evaluated
    found = json.loads((folder / "evaluation.json").read_text())
    rows = {row["corruption"]: row for row in found["results"]}
    (summary,) = found["corruptions"]
    errors = [100 - rows[f"{name}/{severity}"]["top1"] for name in NAMES for severity in range(1, 6)]
    assert summary["mean_error"] == pytest.approx(sum(errors) / 15)
    assert (summary["mce"], summary["normalised"]) == (None, {})
    assert len(found["departures"]) == 3
    page = (folder / "evaluation.md").read_text()
    assert f"raw weights, 32 pixels, crop 0.875: mean error {sum(errors) / 15:.2f} %; no mCE: it compares with" in page
    assert "- frost: a synthesised texture in place of the authors' photographs of ice" in page
    assert "| raw | none | 32 |" in page
    assert "Least often found of 5 classes" in page, "of the images as they are"
    figure = (folder / "evaluation.svg").read_text()
    assert "Top-1 in percent over severity" in figure
    assert "0 severity:" in figure
    assert "5 severity:" in figure


def test_settings_that_mean_nothing_are_named(evaluated):
    config, _, _ = evaluated
    common = ["evaluation.shards=s", "model=hornet_zepto_7x7", "evaluation.image_size=32"]
    for overrides, message in (
        (["corruption_names=[fog]"], "corruption_names: has no effect without corruptions=true"),
        (
            ["corruptions=true", "corruption_names=[rain]"],
            "corruption_names: rain is none of gaussian_noise, ",
        ),
        (["corruptions=true", "corruption_names=[fog,fog]"], "corruption_names: names fog twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            command.read_config(config.source, config=None, overrides=[*common, *overrides])
