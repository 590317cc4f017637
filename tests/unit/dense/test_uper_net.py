"""Segmenters against another reading of the original's, and their files."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from benchmarks.literal import LiteralHorNet
from hornet.dense import weights
from hornet.dense.backbone import DenseBackbone
from hornet.dense.uper_net import UPerNet
from hornet.dense.weights import load_backbone, load_segmenter
from hornet.errors import UserError
from hornet.stages.pretrained import Pretrained
from tests.unit.dense import literal
from tests.unit.dense.small_backbone import build_backbone, fill_visibly

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build_segmenter(kind: str = "fpn", **arguments: object) -> UPerNet:
    network = UPerNet(build_backbone(**arguments), num_classes=5, channels=16, kind=kind)
    fill_visibly(network)
    return network.eval()


@pytest.mark.parametrize("kind", ["fpn", "horfpn_7x7", "horfpn_gf"])
def test_the_head_agrees_with_another_reading(kind):
    network = build_segmenter(kind)
    with torch.no_grad():
        maps = network.backbone(IMAGES)
        expected = literal.uper_head(maps, literal.under(network.state_dict(), "decode_head."))
        assert (network.decode_head(maps) - expected).norm() < 1e-5 * expected.norm()
        logits = network(IMAGES)
    assert torch.equal(logits, literal.resize(network.decode_head(maps), IMAGES.shape[2:]))


@pytest.mark.parametrize("name", ["hornet_atto_gf", "hornet_atto_7x7"])
def test_the_backbone_is_the_classifiers_trunk_with_a_norm_behind_each_stage(name):
    small = {"width": 8, "depths": (1, 1, 1, 1)}
    backbone = fill_visibly(build_backbone(name)).double()
    filtered = {"filter_stages": (2, 3)} if name.endswith("gf") else {}
    oracle = LiteralHorNet(**small, **filtered, img_size=64, num_classes=3).double()
    names = oracle.state_dict().keys() & backbone.state_dict().keys()
    own = {key: tensor for key, tensor in backbone.state_dict().items() if key in names}
    oracle.load_state_dict(own, strict=False)
    assert backbone.state_dict().keys() - names == {f"norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    x = IMAGES.double()
    for index, found in enumerate(backbone(x)):
        x = oracle.stages[index](oracle.downsample_layers[index](x))
        expected = literal.layer_norm(x, backbone.state_dict(), f"norm{index}")
        assert (found - expected).norm() < 1e-5 * expected.norm(), index


@pytest.mark.parametrize("name", ["hornet_atto_gf", "hornet_atto_7x7"])
def test_what_a_batch_is_filled_up_with_is_no_cliff_for_a_fresh_backbone(name):
    """Zeros beside an image: without a bias every norm on the way would multiply their gradients by a thousand."""
    torch.manual_seed(0)
    backbone = build_backbone(name, depths=(2, 2, 2, 2), layer_scale_init=0.5)
    images = IMAGES.clone()
    images[1, :, 32:] = 0
    weigh = torch.Generator().manual_seed(1)
    sum((x * torch.randn(x.shape, generator=weigh)).mean() for x in backbone(images)).backward()
    assert max(parameter.grad.norm().item() for parameter in backbone.parameters()) < 1e3


def test_training_has_an_auxiliary_head_and_every_weight_learns():
    network = UPerNet(build_backbone(layer_scale_init=1.0), num_classes=5, channels=16, kind="horfpn_gf").train()
    logits, auxiliary = network(IMAGES)
    assert logits.shape == auxiliary.shape == (2, 5, 64, 96)
    (logits.square().mean() + auxiliary.square().mean()).backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_names_are_those_of_openmmlabs_checkpoints():
    names = set(build_segmenter().state_dict())
    assert {
        "backbone.downsample_layers.0.0.weight",
        "backbone.stages.2.0.gnconv.dwconv.complex_weight",
        "backbone.norm3.bias",
        "decode_head.conv_seg.weight",
        "decode_head.psp_modules.3.1.conv.weight",
        "decode_head.psp_modules.3.1.bn.running_var",
        "decode_head.bottleneck.bn.num_batches_tracked",
        "decode_head.lateral_convs.2.conv.weight",
        "decode_head.fpn_convs.0.bn.weight",
        "decode_head.fpn_bottleneck.conv.weight",
        "auxiliary_head.convs.0.conv.weight",
        "auxiliary_head.conv_seg.bias",
    } <= names
    assert not {name for name in names if not name.startswith(("backbone.", "decode_head.", "auxiliary_head."))}


def test_a_file_of_openmmlabs_goes_in_whole(tmp_path):
    source, network = build_segmenter(img_size=96), build_segmenter()
    torch.save({"meta": {"epoch": 3}, "state_dict": source.state_dict()}, tmp_path / "x.pth")
    assert load_segmenter(network, tmp_path / "x.pth") == 2, "filters of 96 pixels"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (network(images) - source(images)).norm() < 1e-5 * source(images).norm()
    with pytest.raises(
        UserError, match=r"x\.pth: does not fit the model: .*missing \(decode_head\.fpn_bottleneck\.proj"
    ):
        load_segmenter(build_segmenter("horfpn_7x7"), tmp_path / "x.pth")


def test_a_classifiers_file_goes_into_the_backbone(tmp_path):
    small = {"width": 8, "depths": (1, 1, 1, 1)}
    classifier = fill_visibly(timm.create_model("hornet_atto_gf", num_classes=3, img_size=64, **small))
    torch.save({"model": classifier.state_dict()}, tmp_path / "x.pth")
    backbone = build_backbone(img_size=96)
    nn.init.normal_(backbone.norm0.weight)
    norm = backbone.norm0.weight.clone()
    assert load_backbone(backbone, tmp_path / "x.pth") == 2
    loaded, expected = backbone.state_dict(), classifier.state_dict()
    apart = [name for name in expected if name in loaded and not torch.equal(loaded[name], expected[name])]
    assert [name.rpartition(".")[2] for name in apart] == ["complex_weight"] * 2
    assert torch.equal(backbone.norm0.weight, norm)
    with pytest.raises(UserError, match=r"x\.pth .*does not fit the model: .*missing \(stages\.2\.1\."):
        load_backbone(build_backbone(depths=(1, 1, 2, 1)), tmp_path / "x.pth")


def test_a_run_of_another_model_is_told_by_its_name(monkeypatch):
    found = Pretrained(
        state_dict=build_backbone(width=16).state_dict(),
        label_space=None,
        description={"model": "hornet_femto_gf"},
        source="runs/a/checkpoints/step_00000003 (raw weights)",
    )
    monkeypatch.setattr(weights, "read_pretrained", lambda *_, **__: found)
    with pytest.raises(UserError, match=r"step_00000003 \(raw weights\), a hornet_femto_gf: does not fit the model"):
        load_backbone(build_backbone(), Path("runs/a"))


def test_other_backbones_are_refused():
    for name in ("resnet18", "hornet_isotropic_deit_small_gf"):
        with pytest.raises(UserError, match=f"backbone: is '{name}', but must be a HorNet of four stages"):
            DenseBackbone(name)
