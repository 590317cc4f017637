"""Detectors from torchvision's parts and ours: their losses, their cascade, what they find."""

import pytest
import torch
from torch.nn import functional
from torchvision.models.detection.roi_heads import fastrcnn_loss

from hornet.dense import cascade
from hornet.dense.cascade import STAGES, CascadeStage, Sampled, _compute_box_loss, _refine
from hornet.dense.detectors import build_cascade_mask_rcnn, build_mask_rcnn
from hornet.dense.pyramid import FeaturePyramid
from hornet.errors import UserError
from tests.unit.dense.small_backbone import build_backbone

BUILDERS = {"mask": build_mask_rcnn, "cascade": build_cascade_mask_rcnn}


def build(kind, pyramid="fpn", **arguments):
    torch.manual_seed(0)
    backbone = build_backbone(layer_scale_init=1.0)
    neck = FeaturePyramid(backbone.channels, out_channels=16, kind=pyramid)
    return BUILDERS[kind](
        backbone, neck, num_classes=3, min_size=64, max_size=96, rpn_post_nms_top_n_test=100, **arguments
    )


def make_target(*boxes_and_labels):
    boxes = torch.tensor([box for box, _ in boxes_and_labels], dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), 64, 80, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": boxes, "labels": torch.tensor([label for _, label in boxes_and_labels]).long(), "masks": masks}


TARGETS = [make_target(((8, 8, 40, 56), 1), ((44, 20, 76, 52), 3)), make_target()]
IMAGES = [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("pyramid", ["fpn", "horfpn_7x7", "horfpn_gf"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_every_weight_learns_and_images_without_objects_are_taken(kind, pyramid):
    detector = build(kind, pyramid).train()
    losses = detector(IMAGES, TARGETS)
    assert all(loss.isfinite() for loss in losses.values())
    if kind == "cascade":
        of_stages = {f"loss_{name}_{stage}" for name in ("classifier", "box", "mask") for stage in range(3)}
        assert losses.keys() == of_stages | {"loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert not [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    only_empty = sum(detector([IMAGES[1]] * 2, [TARGETS[1]] * 2).values())
    assert only_empty.isfinite()
    only_empty.backward()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
def test_detections_are_as_torchvisions(kind):
    detector = build(kind).eval()
    detector.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = detector([IMAGES[0], torch.rand(3, 48, 90)])
    assert [image.keys() for image in found] == [{"boxes", "labels", "scores", "masks"}] * 2
    for image, (height, width) in zip(found, ((64, 80), (48, 90)), strict=True):
        assert 0 < len(image["boxes"]) <= 100
        assert image["masks"].shape == (len(image["boxes"]), 1, height, width)
        assert set(image["labels"].tolist()) <= {1, 2, 3}
        assert (image["boxes"][:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
        assert (image["scores"].diff() <= 0).all()


def test_settings_of_detections_hold_for_a_cascade_too():
    settings = {"box_score_thresh": 0.0, "box_nms_thresh": 0.9, "box_detections_per_img": 7}
    samples = {"box_batch_size_per_image": 12, "box_positive_fraction": 0.5}
    heads = [build(kind, **settings, **samples).roi_heads for kind in BUILDERS]
    for name in ("score_thresh", "nms_thresh", "detections_per_img"):
        assert getattr(heads[0], name) == getattr(heads[1], name) == settings[f"box_{name}"]
    assert [vars(one.fg_bg_sampler) for one in heads] == [{"batch_size_per_image": 12, "positive_fraction": 0.5}] * 2


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("mask", "mask_head", torch.nn.Identity()), ("cascade", "box_fg_iou_thresh", 0.6)],
)
def test_settings_of_what_a_detector_has_for_itself_are_refused(kind, name, value):
    with pytest.raises(UserError, match=rf"^{name}: .* has its own.*; leave it out$"):
        build(kind, **{name: value})


@pytest.mark.slow
def test_a_cascade_learns_where_one_thing_is():
    """Two images by heart: a bright square of one kind, a dark one of another."""
    detector = build("cascade", "horfpn_7x7", rpn_batch_size_per_image=64).train()
    detector.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    images = [torch.full((3, 64, 80), 0.5) for _ in range(2)]
    images[0][:, 16:48, 8:40] = 1.0
    images[1][:, 24:56, 30:62] = 0.0
    targets = [make_target(((8, 16, 40, 48), 1)), make_target(((30, 24, 62, 56), 2))]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
    detector.eval()
    with torch.no_grad():
        for found, wanted in zip(detector(images), targets, strict=True):
            box, mask = found["boxes"][:1], found["masks"][0, 0] > 0.5
            assert found["labels"][0] == wanted["labels"][0]
            assert cascade.box_ops.box_iou(box, wanted["boxes"]).item() > 0.7
            both, either = (mask & wanted["masks"][0].bool()).sum(), (mask | wanted["masks"][0].bool()).sum()
            assert both / either > 0.7


def make_stage(index=0):
    torch.manual_seed(1)
    stage = CascadeStage(8, num_classes=3, settings=STAGES[index])
    for parameter in stage.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return stage.eval()


def make_sampled():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 25, 20], [4, 4, 24, 24]])
    objects = torch.tensor([[4.0, 4, 24, 24]])
    return Sampled(
        boxes=boxes,
        labels=torch.tensor([0, 2, 2]),
        objects=torch.tensor([0, 0, 0]),
        object_boxes=objects.expand(3, 4),
        is_annotated=torch.tensor([False, False, True]),
    )


def test_a_stages_classifier_loss_is_torchvisions():
    stage, sampled = make_stage(), make_sampled()
    logits, offsets = stage(torch.randn(3, 8, 7, 7))
    padded = functional.pad(offsets, (0, 0, 1, 0)).flatten(1)
    expected, _ = fastrcnn_loss(logits, padded, [sampled.labels], [torch.zeros(3, 4)])
    assert functional.cross_entropy(logits, sampled.labels) == expected


def test_box_loss_is_the_generalised_iou_of_moved_objects_alone():
    stage, sampled = make_stage(), make_sampled()
    offsets = torch.zeros(3, 3, 4)
    # (5, 5, 25, 20) against (4, 4, 24, 24): 285 in common, 300 + 400 - 285 together, 21 x 20 around both.
    expected = 10 * (1 - (285 / 415 - (420 - 415) / 420)) / 3
    assert _compute_box_loss(stage, offsets, [sampled]).item() == pytest.approx(expected, rel=1e-5)
    # Of the kind that each box is of, and of no other.
    offsets[:, [0, 2]] = 5.0
    offsets[0] = 5.0
    assert _compute_box_loss(stage, offsets, [sampled]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_offsets_are_scaled_by_stage(index):
    offsets = torch.zeros(1, 3, 4)
    offsets[0, 1] = torch.tensor([1.0, -1.0, 1.0, 0.0])
    [[x1, y1, x2, y2]] = (
        make_stage(index).decode(offsets, torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([1])).tolist()
    )
    to_side, _, to_width, _ = STAGES[index].scales
    assert (x1 + x2) / 2 == pytest.approx(20 + 20 * to_side, rel=1e-5)
    assert (y1 + y2) / 2 == pytest.approx(30 - 40 * to_side, rel=1e-5)
    assert x2 - x1 == pytest.approx(20 * torch.tensor(to_width).exp().item(), rel=1e-5)
    assert y2 - y1 == pytest.approx(40, rel=1e-5)


def test_the_next_stage_gets_moved_boxes_of_the_right_kind_without_the_annotated():
    stage, sampled = make_stage(), make_sampled()
    logits = torch.tensor([[0.0, 0, 0, 9], [0, 9, 0, 0], [9, 0, 0, 0]])
    offsets = torch.zeros(3, 3, 4)
    offsets[0, 2, 0] = 1.0  # seems to be of the third kind
    offsets[1, 1, 0] = 2.0  # is of the second kind, whatever it seems
    [refined] = _refine(stage, logits, offsets, [sampled], [(22, 26)])
    # A step is a tenth of the width: one of 10 pixels, and of 20, of which the image's border cuts the last.
    assert torch.allclose(refined, torch.tensor([[1.0, 0, 11, 10], [9, 5, 26, 20]]))


@pytest.mark.slow
def test_three_equal_stages_that_move_nothing_find_what_one_does():
    detector = build("cascade").eval()
    heads = detector.roi_heads
    heads.score_thresh = 0.0
    for stage in heads.stages:
        stage.load_state_dict(heads.stages[0].state_dict())
        torch.nn.init.zeros_(stage.fc_reg.weight)
    with torch.no_grad():
        thrice = detector([IMAGES[0]])[0]
        heads.stages = heads.stages[2:]
        once = detector([IMAGES[0]])[0]
    assert all(torch.allclose(thrice[key].float(), once[key].float(), atol=1e-4) for key in once)
