"""Our backbones under decoders of other libraries, as docs/models.md and the example say."""

import re
import runpy
import socket
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import transformers
from torch.nn import functional

from hornet.errors import UserError
from hornet.model.hornet import HorNet

ROOT = Path(__file__).resolve().parents[3]
NUM_CLASSES = 5

pytestmark = pytest.mark.slow  # the two libraries take seconds to import


@pytest.fixture(autouse=True)
def no_connections(monkeypatch):
    def refuse(*_):
        raise AssertionError("a network was to be asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "examples/other_decoders.py"), run_name="example")


def make_batch():
    torch.manual_seed(0)
    return torch.rand(2, 3, 64, 96), torch.randint(0, NUM_CLASSES, (2, 64, 96))


def build_smp(kind, name):
    model = getattr(smp, kind)(f"tu-{name}", encoder_weights=None, classes=NUM_CLASSES)
    return model, lambda images, masks: functional.cross_entropy(model(images), masks)


def build_transformers(kind, name):
    backbone = transformers.TimmBackboneConfig(backbone=name, out_indices=[0, 1, 2, 3])
    if kind == "UperNet":
        config = transformers.UperNetConfig(
            backbone_config=backbone,
            num_labels=NUM_CLASSES,
            hidden_size=16,
            auxiliary_channels=8,
            auxiliary_in_channels=64,
        )
        model = transformers.UperNetForSemanticSegmentation(config)
        return model, lambda images, masks: model(pixel_values=images, labels=masks).loss
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=NUM_CLASSES,
        num_queries=6,
        num_attention_heads=4,
        encoder_layers=1,
        decoder_layers=2,
        train_num_points=64,
        **dict.fromkeys(widths, 32),
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config)

    def compute_loss(images, masks):
        things = functional.one_hot(masks, NUM_CLASSES).permute(0, 3, 1, 2).float()
        labels = [torch.arange(NUM_CLASSES)] * len(images)
        return model(pixel_values=images, mask_labels=list(things), class_labels=labels).loss.sum()

    return model, compute_loss


def find_backbone(model):
    [backbone] = (module for module in model.modules() if isinstance(module, HorNet))
    return backbone


def require_learning(model, compute_loss):
    """Every parameter of the backbone has a gradient, and a small step against it lowers the loss."""
    backbone, batch = find_backbone(model), make_batch()
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)  # dropout, and the points at which Mask2Former compares masks
        loss = compute_loss(*batch)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []
        optimizer.step()
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("kind", "name"), [("Unet", "hornet_atto_7x7"), ("FPN", "hornet_atto_gf"), ("UPerNet", "hornet_atto_gf")]
)
def test_encoders_of_segmentation_models_pytorch(kind, name):
    model, compute_loss = build_smp(kind, name)
    assert model.eval()(make_batch()[0]).shape == (2, NUM_CLASSES, 64, 96)
    require_learning(model, compute_loss)


@pytest.mark.parametrize("kind", ["UnetPlusPlus", "MAnet", "Linknet", "PSPNet", "Segformer", "DPT"])
def test_the_other_decoders_that_are_said_to_work(kind):
    model, _ = build_smp(kind, "hornet_atto_gf")
    assert model.eval()(make_batch()[0]).shape == (2, NUM_CLASSES, 64, 96)


def test_dilated_decoders_are_refused_and_told_why():
    for kind, stride in (("DeepLabV3", 8), ("DeepLabV3Plus", 16), ("PAN", 16)):
        with pytest.raises(UserError, match=f"output_stride: .* cannot be {stride}: no dilated form of it has been"):
            getattr(smp, kind)("tu-hornet_atto_gf", encoder_weights=None)
    model = smp.PAN("tu-hornet_atto_gf", encoder_weights=None, encoder_output_stride=32)
    assert model.eval()(torch.rand(1, 3, 256, 256)).shape == (1, 1, 256, 256)


@pytest.mark.parametrize(("kind", "name"), [("UperNet", "hornet_atto_7x7"), ("Mask2Former", "hornet_atto_gf")])
def test_segmenters_of_transformers(kind, name):
    require_learning(*build_transformers(kind, name))


@pytest.mark.parametrize("kind", ["Unet", "UperNet"])
def test_what_is_saved_comes_back(kind, tmp_path):
    is_smp = kind == "Unet"
    model, _ = (build_smp if is_smp else build_transformers)(kind, "hornet_atto_gf")
    model.save_pretrained(tmp_path)
    again = smp.from_pretrained(tmp_path) if is_smp else type(model).from_pretrained(tmp_path)
    assert model.state_dict().keys() == again.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    outputs = [one.eval()(make_batch()[0]) for one in (model, again)]
    if not is_smp:
        outputs = [one.logits for one in outputs]
    # Not to the bit: convolutions of the decoders round by where in memory their weights lie.
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", ["build_unet", "build_uper_net"])
def test_weights_of_a_file_go_into_the_backbone(example, build, tmp_path):
    classifier = timm.create_model("hornet_atto_gf", num_classes=7, layer_scale_init=0.5)
    torch.save({"model": classifier.state_dict()}, tmp_path / "weights.pth")
    network = example[build]("hornet_atto_gf", NUM_CLASSES).eval()
    images = torch.rand(1, 3, 32, 64)
    output = network(images)
    assert getattr(output, "logits", output).shape == (1, NUM_CLASSES, 32, 64)
    example["load_backbone"](network, tmp_path / "weights.pth")
    maps = [
        part.forward_intermediates(images, intermediates_only=True) for part in (find_backbone(network), classifier)
    ]
    for mine, theirs in zip(*maps, strict=True):
        assert torch.equal(mine, theirs)


def test_a_file_is_named_as_timm_names_it(tmp_path):
    classifier = timm.create_model("hornet_atto_gf", num_classes=7, img_size=64)
    torch.save({"model": classifier.state_dict()}, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="resampled|resized"):
        model = smp.Unet(
            "tu-hornet_atto_gf",
            encoder_weights=True,
            pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")},
        )
    name = "stages.0.0.pwconv1.weight"
    assert torch.equal(find_backbone(model).get_parameter(name), classifier.get_parameter(name))


def test_the_documentation_s_programs_run_as_they_stand():
    text = (ROOT / "docs/models.md").read_text()
    section = text.split("## Under decoders of other libraries")[1].split("\n## ")[0]
    programs = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        exec(compile(program, "docs/models.md", "exec"), names := {})
        assert find_backbone(names["segmenter"]).feature_info[0]["num_chs"] == 64
