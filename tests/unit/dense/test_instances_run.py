"""What a run of instance segmentation learns and how, by part; its settings; what it renders."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from dense import stage
from dense.config import TASKS, DenseConfig, InstancesConfig
from dense.instances import InstanceSegmentation
from dense.networks import build_network, get_backbone
from dense.rendering import EDGE_PIXELS, lay_side_by_side, render_instances
from dense.stage import open_labelled
from hornet.cli.evaluate_dense import find_dense_run, read_dense
from hornet.config import ConfigError, build_config, load_config, to_values
from hornet.dense.instance_inference import detect, measure_instances, paste_masks
from hornet.errors import UserError
from hornet.runs.begun import write_config
from hornet.shards.label_space import LabelSpace
from hornet.training.detection_results import DetectionResults, read_category_ids
from hornet.world import ALONE
from tests.unit.dense.annotated import make_batch, make_instances
from tests.unit.shards.coco_set import build_set

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    "name": "hornet_atto_gf",
    "detector": "mask_rcnn",
    "arguments": {"width": 8, "depths": [1, 1, 1, 1]},
    "filter_size": 64,
    "layer_scale_init": 1.0,
    "channels": 16,
    "anchor_size": 16,
}
VALUES = {
    "task": "instances",
    "run": {"name": "things"},
    "model": SMALL,
    "data": {"shards": "x", "transform": {}},
    "evaluation": {"shards": "x"},
    "optimizer": {},
    "schedule": {"num_steps": 10, "peak_lr": 1e-3},
    "cadence": {},
    "precision": "fp32",
    "global_batch_size": 4,
    "micro_batch_size": 2,
}


def make_config(**changes):
    return build_config(InstancesConfig, {**VALUES, **changes}, source="test")


CONFIG = make_config()
BRIGHT = make_instances(((8, 16, 40, 48), 1))
DARK = make_instances(((12, 8, 44, 40), 2), size=(48, 64))
NOTHING = make_instances(size=(56, 72))


def make_task(config=CONFIG, labelled=None):
    return InstanceSegmentation(
        config=config,
        label_space=LabelSpace(name="things", classes=("background", "bright", "dark", "other")),
        labelled=labelled,
        num_micro_steps=2,
        world=ALONE,
        device=torch.device("cpu"),
        beat=lambda: None,
    )


def test_the_network_gets_images_sizes_and_targets_and_its_losses_are_added():
    given = []

    def model(images, sizes, targets):
        given.extend([images, sizes, targets])
        return {"one": torch.tensor(0.5), "two": torch.tensor(1.25, dtype=torch.bfloat16)}

    loss = make_task().compute_loss(model, make_batch(BRIGHT, DARK, NOTHING), 0)
    images, sizes, targets = given
    assert (loss.item(), loss.dtype) == (1.75, torch.float32)
    assert sizes == [(64, 80), (48, 64), (56, 72)]
    assert [target.keys() for target in targets] == [{"boxes", "labels", "masks"}] * 3
    assert [len(target["boxes"]) for target in targets] == [1, 1, 0]
    assert torch.equal(targets[1]["masks"], DARK.masks)
    # Normalised by the run's mean and standard deviation, once; 0 beside the image, whatever lay there.
    assert images[1, :, 47, 63].tolist() == pytest.approx(
        [(128 / 255 - m) / s for m, s in zip(CONFIG.mean, CONFIG.std, strict=True)]
    )
    assert not images[1, :, 48:].any()
    assert not images[1, :, :, 64:].any()


def test_draws_follow_from_the_seed_alone():
    """Dropped paths, and the boxes that are learned from."""
    config = make_config(model={**SMALL, "drop_path_rate": 0.5, "regions_per_image": 8})
    network, task, batch = build_network(config, num_classes=4), make_task(config), make_batch(BRIGHT, DARK)
    network.rpn.fg_bg_sampler.batch_size_per_image = 8
    losses = [task.compute_loss(network, batch, seed).item() for seed in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]
    assert len({task.derive_step_seed(step, micro_step) for step in range(3) for micro_step in range(2)}) == 6


@pytest.mark.slow
def test_a_detector_learns_what_there_is_to_learn():
    """A few steps on one batch, of which an image holds nothing: the loss falls, and every parameter has a gradient."""
    network, task = build_network(CONFIG, num_classes=4), make_task()
    network.rpn.fg_bg_sampler.batch_size_per_image = network.roi_heads.fg_bg_sampler.batch_size_per_image = 32
    batch = make_batch(BRIGHT, NOTHING)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for step in range(12):
        loss = task.compute_loss(network, batch, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


class Stream:
    """An evaluation stream of batches that are there."""

    max_bad_sample_rate = 0.0

    def __init__(self, *batches):
        self.batches, self.num_samples = batches, len(batches)

    def read(self, samples):
        return self.batches[samples[0]]


def answer(images, sizes):
    """A detector that finds the left half of each image, surely of kind 2, and less surely all of it of kind 1."""
    found = []
    for height, width in sizes:
        boxes = torch.tensor([[0.0, 0, width / 2, height], [0, 0, width, height]])
        parts = {"labels": torch.tensor([2, 1]), "scores": torch.tensor([0.9, 0.1]), "masks": torch.ones(2, 1, 28, 28)}
        found.append({"boxes": boxes, **parts})
    return found


def test_what_is_found_is_brought_to_the_image_s_own_size():
    image = make_instances(((8, 16, 40, 48), 1), original_size=(32, 160))
    batch = make_batch(image)
    [found] = detect(answer, torch.zeros(1, 3, 64, 80), batch)
    assert found.boxes.tolist() == [[0, 0, 80, 32], [0, 0, 160, 32]]
    assert found.masks.shape == (2, 32, 160)
    assert found.masks[0, :, :80].all()
    assert not found.masks[0, :, 80:].any()


@pytest.mark.parametrize("is_autocast", [False, True])
def test_masks_are_pasted_as_torch_samples_them_at_the_middles_of_pixels(is_autocast):
    draw = torch.Generator().manual_seed(0)
    masks = torch.rand(40, 28, 28, generator=draw)
    corners = torch.rand(40, 2, 2, generator=draw).sort(dim=1).values * torch.tensor([110.0, 70]) - 10
    boxes = torch.cat([corners[:, 0], corners[:, 1] + 0.5], dim=1)  # some reach beyond the image
    columns, rows = ((torch.arange(size) + 0.5) for size in (90, 50))
    x = 2 * (columns - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) - 1
    y = 2 * (rows - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) - 1
    places = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), dim=3)
    expected = functional.grid_sample(masks[:, None], places, align_corners=False, padding_mode="border")[:, 0]
    expected *= (places.abs() <= 1).all(dim=3)  # nothing beyond the box
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        found = paste_masks(masks, boxes, size=(50, 90))
    is_clear = (expected - 0.5).abs() > 1e-4
    assert found.dtype == torch.bool
    assert (found == (expected >= 0.5))[is_clear].all()
    assert is_clear.float().mean() > 0.99
    assert paste_masks(masks[:0], boxes[:0], size=(50, 90)).shape == (0, 50, 90)


@pytest.mark.parametrize("radius", [6, 10, 16])
def test_the_mask_that_was_taught_of_a_small_ring_overlaps_it(radius):
    """What torchvision teaches, at 1.5 times the size; without the shift it is 0.87, as torchvision pastes it 0.80."""
    rows, columns = (torch.arange(96) + 0.5)[:, None] / 1.5, (torch.arange(96) + 0.5) / 1.5
    overlaps = []
    for step in torch.linspace(0, 0.9, 10):
        x, y = 32 + step / 2, 32 + step

        def draw(rows, columns, x=x, y=y):
            squares = (rows - y) ** 2 + (columns - x) ** 2
            return (squares <= radius**2) & (squares >= (radius - 4) ** 2)

        box = 1.5 * torch.tensor([[x - radius, y - radius, x + radius, y + radius]])
        taught = project_masks_on_boxes(draw(rows, columns)[None], box, torch.zeros(1), 28)
        told = {"boxes": box, "masks": taught[:, None], "labels": torch.ones(1), "scores": torch.ones(1)}
        image = make_instances(size=(96, 96), original_size=(64, 64))
        [found] = detect(lambda *_, told=told: [told], torch.zeros(1, 3, 96, 96), make_batch(image))
        there = draw((torch.arange(64) + 0.5)[:, None], torch.arange(64) + 0.5)
        overlaps.append((found.masks[0] & there).sum() / (found.masks[0] | there).sum())
    assert torch.stack(overlaps).mean() > 0.92


def test_an_image_shows_what_is_annotated_and_what_is_found():
    config = dataclasses.replace(CONFIG, num_rendered_images=2)
    rendered = make_task(config, Stream(make_batch(BRIGHT), make_batch(NOTHING))).render_predictions(answer)
    assert rendered.shape == (3, 2 * EDGE_PIXELS + 6, 2 * EDGE_PIXELS + 6)
    truth, found = rendered[:, 2:258, 2:322], rendered[:, 2:258, 324:644]
    grey = torch.full((3,), 128 / 255)
    assert torch.allclose(truth[:, 250, 300], grey, atol=0.01)
    assert torch.allclose(found[:, 250, 300], grey, atol=0.01), "what is hardly sure is not shown"
    assert not torch.allclose(found[:, 250, 100], grey, atol=0.05), "the left half is coloured"
    assert not torch.allclose(truth[:, 150, 100], torch.ones(3), atol=0.05), "so is what is annotated"
    assert (rendered[:, 300:320, 2:322] == 1).all(), "beside the image it is white"
    assert lay_side_by_side([]).shape == (3, 1, 1)


def test_of_masks_that_overlap_the_first_is_seen():
    """torchvision's own rendering leaves black where they do."""
    image, masks = torch.full((3, EDGE_PIXELS, EDGE_PIXELS), 100, dtype=torch.uint8), torch.zeros(2, 40, 40)
    masks[0, :20], masks[1, 10:30] = 1, 1
    names, size = ["background", "one", "two"], (40, 40)

    def render(masks, *labels):
        boxes = torch.tensor([[38.0, 38, 39, 39]] * len(labels))
        return render_instances(image, boxes, masks, labels=torch.tensor(labels), names=names, size=size)[:, :, 200]

    both, first, second = render(masks, 1, 2), render(masks[:1], 1), render(masks[1:], 2)
    assert torch.equal(both[:, :160], first[:, :160])
    assert torch.equal(both[:, 160:], second[:, 160:])
    assert not torch.equal(first[:, 100], second[:, 100])


def test_boxes_are_rendered_in_the_pixels_of_the_size_they_are_of():
    image = torch.full((3, 64, 80), 128, dtype=torch.uint8)
    mask = torch.zeros(1, 128, 160, dtype=torch.bool)
    rendered = render_instances(
        image,
        torch.tensor([[80.0, 64, 159, 127]]),
        mask,
        labels=torch.tensor([1]),
        names=["background", "x"],
        size=(128, 160),
    )
    is_changed = (rendered[:, :256] - 128 / 255).abs().amax(dim=0) > 0.05
    rows, columns = is_changed.nonzero(as_tuple=True)
    assert (rows.min() >= 115) & (rows.max() <= 255), "the name stands above or within"
    assert columns.min() == pytest.approx(160, abs=2)


def test_padding_and_unreadable_images_are_not_measured():
    counted, bad = [], []
    precision = SimpleNamespace(
        add=lambda truth, **found: counted.append((truth.image_id, found.keys())),
        add_bad=bad.append,
        finish=lambda: "finished",
    )
    padding = dataclasses.replace(make_batch(NOTHING), is_real=torch.zeros(1, dtype=torch.bool), instances=())
    batches = [make_batch(BRIGHT), padding]
    found = measure_instances(answer, batches, precision=precision, normalise=lambda batch: batch.images_bchw / 255)
    assert found == "finished"
    assert counted == [(1, {"boxes", "scores", "labels", "masks"})]
    assert bad == [0, 0]


def test_a_detector_that_says_what_is_there_is_right(tmp_path, alone):
    """From tars to average precision, over the sizes, numbers and classes of all that lies between."""
    evaluation = {"shards": str(build_set(tmp_path, num_images=6)), "index": str(tmp_path / "index"), "short_edge": 96}
    config = make_config(evaluation=evaluation)
    labelled = open_labelled(config, world=ALONE)
    there = iter([batch.instances[0] for batch in labelled.iterate()])

    def tell(images, sizes):
        image = next(there)
        assert sizes == [image.size]
        is_told = ~image.iscrowd
        boxes, masks = image.boxes[is_told], image.masks[is_told, None].float()
        numbers = torch.arange(len(boxes))[:, None]
        seen = roi_align(masks, torch.cat([numbers, boxes], dim=1), (28, 28)).clamp(0, 1)
        return [{"boxes": boxes, "masks": seen, "labels": image.labels[is_told], "scores": torch.ones(len(boxes))}]

    ids = read_category_ids(labelled.origin, num_classes=4, name="squares")
    results = DetectionResults(folder=tmp_path, category_ids=ids)
    task = dataclasses.replace(make_task(config, labelled), label_space=labelled.label_space, results=results)
    found = task.evaluate(tell)
    assert (found.num_images, found.num_bad_images) == (6, 0)
    assert found.box_ap == pytest.approx(100)
    assert found.mask_ap50 == pytest.approx(100)
    assert found.mask_ap > 99, "though masks are seen at 28 x 28"
    written = json.loads((tmp_path / "bbox.json").read_text())
    listed = json.loads((tmp_path / "source/annotations/instances_train2017.json").read_text())["annotations"]
    names = ("image_id", "category_id")
    assert sorted([row[name] for name in names] for row in written) == sorted(
        [one[name] for name in names] for one in listed if not one["iscrowd"]
    ), "by the ids of the file that the set was made from"


def test_what_measures_is_looked_for_before_training(monkeypatch):
    def refuse(num_classes):
        raise UserError("average precision needs what is not installed")

    space = LabelSpace(name="things", classes=("background", "bright"))
    monkeypatch.setattr(stage, "open_instance_evaluation", lambda config, world: SimpleNamespace(label_space=space))
    monkeypatch.setattr(stage, "AveragePrecision", refuse)
    with pytest.raises(UserError, match="needs what is not installed"):
        open_labelled(CONFIG, world=ALONE)


def test_weights_of_a_classifier_go_into_the_backbone_of_either_task():
    detector = build_network(CONFIG, num_classes=4)
    assert get_backbone(detector) is detector.backbone.body
    demo = load_config(DenseConfig, path=ROOT / "configs/demo/segmentation.yaml")
    model = dataclasses.replace(demo.model, arguments={"width": 8, "depths": (1, 1, 1, 1)}, channels=8)
    segmenter = build_network(dataclasses.replace(demo, model=model), num_classes=4)
    assert get_backbone(segmenter) is segmenter.backbone


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"name": "convnext_tiny"}}, "model.name: 'convnext_tiny' is not one of hornet_"),
        (
            {"model": {"name": "hornet_isotropic_deit_small_gf"}},
            r"model.name: 'hornet_isotropic_deit_small_gf' is not one of hornet_(?!.*isotropic)",
        ),
        (
            {"model": {"detector": "retinanet"}},
            r"model\.detector: must be .*not 'retinanet'",
        ),
        ({"model": {"channels": 7}}, "model.channels: must be even"),
        ({"model": {"channels": 6, "pyramid": "horfpn_gf"}}, "model.channels: must be a multiple of 4 under pyramid=h"),
        ({"model": {"anchor_size": 0}}, "model.anchor_size: must be at least 1"),
        ({"model": {"regions_per_image": 3}}, "model.regions_per_image: must be at least 4"),
        ({"model": {"auxiliary_weight": 0.4}}, "model.auxiliary_weight: unknown key"),
        ({"run": {"branch_from": "runs/a"}}, "run.branch_from: is for schedules of shape wsd"),
        ({"evaluation": None, "checkpoints": {"best": True}}, "checkpoints.best: needs an evaluation set"),
    ],
)
def test_settings_are_checked(changes, sentence):
    values = to_values(CONFIG)
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=sentence):
        build_config(InstancesConfig, values, source="test")


def test_a_file_says_which_task_it_is_of(tmp_path):
    write_config(tmp_path, CONFIG)
    path = tmp_path / "config.yaml"
    assert load_config(TASKS, path=path) == CONFIG
    demo = ROOT / "configs/demo/segmentation.yaml"
    assert isinstance(load_config(TASKS, path=demo), DenseConfig), "a file without a task is of the first"
    with pytest.raises(ConfigError, match=r"task: must be semantic or instances, not 'boxes'"):
        load_config(TASKS, path=demo, overrides=["task=boxes"])
    with pytest.raises(ConfigError, match=r"model\.detector: is missing"):
        load_config(TASKS, path=demo, overrides=["task=instances"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"colour": 3}, r"hornet_atto_gf does not take them: .*colour"),
        ({"width": 7}, r"hornet_atto_gf does not take them: channels is 7, but a gnConv of order 2"),
        (
            {"depths": [1, 1, 1]},
            r"hornet_atto_gf does not take them: orders is \(2, 3, 4, 5\), but must hold 3 numbers",
        ),
        ({"in_chans": 1}, "images have 3 channels, and not in_chans=1"),
        ({"stem_stride": 2}, "a detector's maps are of strides 4, 8, 16 and 32, and not from stem_stride=2 on"),
    ],
)
def test_arguments_that_the_backbone_does_not_take_are_told(arguments, sentence):
    config = make_config(model={**SMALL, "arguments": {**SMALL["arguments"], **arguments}})
    with pytest.raises(UserError, match=f"model.arguments: {sentence}"):
        build_network(config, num_classes=4)


def test_a_run_is_evaluated_as_it_evaluates_unless_told_otherwise(tmp_path):
    write_config(tmp_path, CONFIG)
    assert find_dense_run(tmp_path / "checkpoints" / "step_00000001") == tmp_path
    trained, config = read_dense(tmp_path, tmp_path, config=None, overrides=["evaluation.split=test"])
    assert trained == CONFIG
    assert config.precision == "fp32"
    assert config.evaluation == dataclasses.replace(CONFIG.evaluation, split="test")
    assert config.results is None
    assert read_dense(tmp_path, tmp_path, config=None, overrides=["results=x/y"])[1].results == Path("x/y")
    with pytest.raises(ConfigError, match=r"evaluation.fip: unknown key"):
        read_dense(tmp_path, tmp_path, config=None, overrides=["evaluation.fip=true"])
