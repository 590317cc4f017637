"""Detectors as runs train them: sizes that come with the batch, rates by layer, precision, costs."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from hornet.dense.detectors import build_mask_rcnn
from hornet.dense.instance_segmenter import build_instance_segmenter
from hornet.dense.pyramid import FeaturePyramid
from hornet.training.config import OptimizerConfig
from hornet.training.optimizer import build_optimizer, set_lr
from tests.unit.dense.annotated import make_instances
from tests.unit.dense.small_backbone import build_backbone

NOTHING = make_instances()


def build(kind="mask_rcnn", *, anchor_size=32, pyramid="fpn", **arguments):
    torch.manual_seed(0)
    backbone = build_backbone(layer_scale_init=1.0, **arguments)
    neck = FeaturePyramid(backbone.channels, out_channels=16, kind=pyramid)
    return build_instance_segmenter(kind, backbone, neck, num_classes=3, anchor_size=anchor_size)


def to_targets(*images):
    return [{"boxes": image.boxes, "labels": image.labels, "masks": image.masks} for image in images]


def run(network, images, *instances):
    torch.manual_seed(5)  # the choice of boxes to learn from is random
    return network(images, [image.size for image in instances], to_targets(*instances))


def test_losses_are_torchvisions_where_it_neither_resizes_nor_normalises():
    """The same weights in torchvision's own Mask R-CNN, told that its images are of their size already."""
    ours = build().train()
    torch.manual_seed(0)
    backbone = build_backbone(layer_scale_init=1.0)
    theirs = build_mask_rcnn(
        backbone,
        FeaturePyramid(backbone.channels, out_channels=16),
        num_classes=3,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        min_size=128,
        max_size=1000,
        rpn_post_nms_top_n_train=1000,
    ).train()
    theirs.load_state_dict(ours.state_dict())
    theirs.transform._skip_resize = True
    size = (128, 192)  # multiples of 64: else torchvision's anchors on the smallest map are elsewhere
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    instances = [make_instances(((8, 8, 40, 56), 1), size=size), make_instances(((4, 4, 44, 60), 2), size=size)]
    torch.manual_seed(5)
    expected = theirs(list(images), to_targets(*instances))
    found = run(ours, images, *instances)
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_a_batch_without_any_object_gives_every_parameter_a_gradient(kind):
    """Else data parallelism would wait for gradients that never come."""
    network = build(kind).train()
    losses = run(network, torch.randn(2, 3, 64, 80), NOTHING, NOTHING)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_the_size_of_what_is_beside_an_image_does_not_change_what_is_found():
    """Sizes that are no multiple of the stride are filled up; zeros beside that change nothing but rounding."""
    network = build().eval()
    network.roi_heads.score_thresh = 0.0
    image = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[:, :, :50, :70] = image
    with torch.no_grad():
        [found], [same] = network(image, [(50, 70)]), network(padded, [(50, 70)])
    assert 0 < len(found["boxes"]) <= 100
    assert found["masks"].shape[1:] == (1, 28, 28)
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"] <= torch.tensor([70, 50, 70, 50])).all()
    for key, value in found.items():
        assert torch.allclose(value.float(), same[key].float(), atol=1e-4), key


def test_strides_are_those_of_the_maps_whatever_the_first_image_is():
    """torchvision would infer them from the first batch: here from 40 of 64 pixels, and so wrongly."""
    network = build().eval()
    with torch.no_grad():
        network(torch.randn(1, 3, 40, 40), [(40, 40)])
    assert (
        network.roi_heads.box_roi_pool.scales
        == network.roi_heads.mask_roi_pool.scales
        == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    )


@pytest.mark.parametrize("size", [(64, 96), (160, 224), (256, 288)])
def test_anchors_stand_where_the_positions_of_their_maps_do(size):
    """torchvision's are 48, 56 or 57 pixels apart on the smallest map, where it has a position more than fits."""
    network = build().eval()
    images = torch.zeros(1, 3, *size)
    maps = list(network.backbone(images).values())
    [anchors] = network.rpn.anchor_generator(ImageList(images, [size]), maps)
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2
    per_map = middles.split([3 * x.shape[2] * x.shape[3] for x in maps])
    for x, found, stride in zip(maps, per_map, (4, 8, 16, 32, 64), strict=True):
        rows, columns = torch.arange(x.shape[2]) * stride, torch.arange(x.shape[3]) * stride
        expected = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2).reshape(-1, 2)
        assert (found == expected.repeat_interleave(3, dim=0)).all()


def test_anchors_double_from_map_to_map():
    cells = build(anchor_size=8).rpn.anchor_generator.cell_anchors
    areas = [((cell[:, 2] - cell[:, 0]) * (cell[:, 3] - cell[:, 1])).mean().item() ** 0.5 for cell in cells]
    assert areas == pytest.approx([8, 16, 32, 64, 128], rel=0.06), "corners are rounded to pixels"


@pytest.mark.parametrize(
    ("decay", "stem", "stage_1", "stage_4"), [(0.7, 0.0097, 0.0138, 0.70), (0.8, 0.0550, 0.0687, 0.80)]
)
def test_layer_decay_gives_each_part_the_original_s_rate(decay, stem, stage_1, stage_4):
    """Layer-wise with 12 layers: what the original's rule gives tiny, small and large (0.7), and base (0.8)."""
    network = build(depths=(1, 1, 7, 1))
    optimizer = build_optimizer(network, OptimizerConfig(layer_decay=decay, weight_decay=0.05))
    set_lr(optimizer.param_groups, 1.0)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates.keys() == dict(network.named_parameters()).keys()
    parts = {
        "backbone.body.downsample_layers.0": stem,
        "backbone.body.stages.0": stage_1,
        "backbone.body.downsample_layers.1": decay**11,
        "backbone.body.stages.1": decay**11,
        "backbone.body.downsample_layers.2": decay**10,
        "backbone.body.stages.2.0": decay**10,
        "backbone.body.stages.2.2": decay**10,
        "backbone.body.stages.2.3": decay**9,
        "backbone.body.stages.2.6": decay**8,
        "backbone.body.downsample_layers.3": stage_4,
        "backbone.body.stages.3": stage_4,
        "backbone.body.norm": 1.0,
        "backbone.neck": 1.0,
        "rpn": 1.0,
        "roi_heads": 1.0,
    }
    for part, expected in parts.items():
        of_part = {rate for name, rate in rates.items() if name.startswith(part)}
        assert list(of_part) == [pytest.approx(expected, abs=6e-5)], part


def test_under_autocast_what_follows_from_the_heads_is_fp32():
    network = build().train()
    seen = {}
    network.rpn.box_coder.decode = lambda deltas, anchors: (
        seen.update(deltas=deltas, anchors=anchors) or torch.cat(anchors)
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = run(network, torch.randn(1, 3, 32, 32), make_instances(((4, 4, 20, 28), 1), size=(32, 32)))
    assert seen["deltas"].dtype == seen["anchors"][0].dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_the_cost_counts_the_regions_of_an_image(kind):
    """By hand: one box head is 512 regions through its convolutions (a cascade has three) and linear layers."""
    network = build(kind)
    cost = network.count_multiply_adds(64).executed
    assert cost == network.count_multiply_adds(64).published
    positions, masks = 7 * 7, 14 * 14
    mask_head = 128 * masks * (4 * 9 * 16 * 16 + 4 * 16 * 16 + 4 * 16 * (4 if kind == "mask_rcnn" else 3))
    if kind == "mask_rcnn":
        heads = 512 * (positions * 16 * 1024 + 1024 * 1024 + 1024 * (4 + 16)) + mask_head
    else:
        heads = 3 * (512 * (positions * 4 * 9 * 16 * 16 + positions * 16 * 1024 + 1024 * (4 + 12)) + mask_head)
    trunk = network.count_multiply_adds(128).executed - cost  # maps of 4 times the area: 3 times the cost of one
    assert cost - heads == pytest.approx(trunk / 3, rel=0.03), "filters are resampled"
