"""What a run of segmentation learns and how fast, by part; its settings; its renders."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from dense import evaluation
from dense.config import DenseConfig
from dense.networks import build_network
from dense.segmentation import Segmentation, average_over_pixels, render_masks
from dense.stage import TASK_NAMES
from hornet.batch import Batch
from hornet.cli import average, export
from hornet.cli.evaluate_dense import find_dense_run, read_dense
from hornet.config import ConfigError, build_config, load_config, to_values
from hornet.data.segmentation import open_segmentation_evaluation
from hornet.dense.uper_net import UPerNet
from hornet.errors import UserError
from hornet.runs.begun import write_config
from hornet.shards.label_space import LabelSpace
from hornet.stages import pretrained
from hornet.training.config import OptimizerConfig
from hornet.training.optimizer import build_optimizer, set_lr
from hornet.world import ALONE
from pretrain.config import PretrainConfig
from tests.unit.data.masked_set import build_set
from tests.unit.dense.small_backbone import build_backbone

ROOT = Path(__file__).resolve().parents[3]
DEMO = load_config(DenseConfig, path=ROOT / "configs/demo/segmentation.yaml")


@pytest.mark.parametrize(
    ("num_layers", "decay", "stem", "stages"),
    [(6, 0.9, 0.478, (0.531, 0.591, 0.656, 0.729)), (12, 0.9, 0.254, (0.282, 0.314, 0.349, 0.387))],
)
def test_layer_decay_gives_each_part_the_original_s_rate(num_layers, decay, stem, stages):
    """The rates that the original's stage-wise rule gives tiny (6 layers) and small and base (12)."""
    network = UPerNet(build_backbone(), num_classes=3, channels=8, num_decay_layers=num_layers)
    optimizer = build_optimizer(network, OptimizerConfig(layer_decay=decay, weight_decay=0.05))
    set_lr(optimizer.param_groups, 1.0)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates.keys() == dict(network.named_parameters()).keys()
    for name, rate in rates.items():
        if name.startswith("backbone.downsample_layers"):
            assert rate == pytest.approx(stem, abs=6e-4), name
        elif name.startswith("backbone.stages"):
            assert rate == pytest.approx(stages[int(name.split(".")[2])], abs=6e-4), name
        else:
            assert rate == 1.0, name
    decayed = {group["weight_decay"] for group in optimizer.param_groups for name in group["names"] if "bias" in name}
    assert decayed == {0.0}
    shapes = {name: parameter.ndim for name, parameter in network.named_parameters()}
    for group in optimizer.param_groups:
        assert {shapes[name] > 1 for name in group["names"]} == {group["weight_decay"] > 0} or group[
            "weight_decay"
        ] == 0


def test_the_loss_is_mmsegmentation_s_mean_over_all_pixels():
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 3, 4, 5), torch.randint(-1, 3, (2, 4, 5))
    losses = functional.cross_entropy(logits, masks, ignore_index=-1, reduction="none")
    assert average_over_pixels(logits, masks) == pytest.approx(float(losses.mean()))
    assert average_over_pixels(logits, torch.full_like(masks, -1)) == 0, "of no class at all no NaN comes"


def make_task(config=DEMO, labelled=None, num_classes=3):
    return Segmentation(
        config=config,
        label_space=LabelSpace(name="c", classes=tuple(f"c{number}" for number in range(num_classes))),
        labelled=labelled,
        num_micro_steps=2,
        world=ALONE,
        device=torch.device("cpu"),
        beat=lambda: None,
    )


def make_batch(masks):
    count = len(masks)
    return Batch(
        images_bchw=torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8),
        labels=torch.zeros(count, dtype=torch.int64),
        erase_boxes=torch.zeros(count, 4, dtype=torch.int32),
        key_hashes=torch.zeros(count, dtype=torch.int64),
        keys=("",) * count,
        is_real=torch.ones(count, dtype=torch.bool),
        bad_samples=(),
        masks_bhw=masks,
    )


def test_a_micro_batch_s_loss_has_the_auxiliary_head_s_with_its_weight():
    masks = torch.randint(-1, 3, (2, 32, 32), dtype=torch.int16)
    answers = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    loss = make_task().compute_loss(lambda images: answers, make_batch(masks), 0)
    expected = average_over_pixels(answers[0], masks.long()) + 0.4 * average_over_pixels(answers[1], masks.long())
    assert float(loss) == pytest.approx(float(expected))


def test_a_network_learns_what_is_there_to_learn():
    """A few steps on one batch: the loss falls, and every parameter gets a gradient."""
    model = dataclasses.replace(DEMO.model, arguments={"width": 8, "depths": (1, 1, 1, 1)}, channels=8)
    network = build_network(dataclasses.replace(DEMO, model=model), num_classes=3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    masks = (torch.arange(32) // 11).expand(2, 32, 32).short()
    batch = dataclasses.replace(make_batch(masks), images_bchw=(masks * 100).byte()[:, None].expand(2, 3, 32, 32))
    task, losses = make_task(), []
    for step in range(12):
        loss = task.compute_loss(network, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_seeds_differ_between_steps_and_micro_steps():
    task = make_task()
    seeds = {task.derive_step_seed(step, micro_step) for step in range(3) for micro_step in range(2)}
    assert len(seeds) == 6


def test_masks_are_rendered_black_where_there_is_no_class_and_never_twice_the_same():
    rendered = render_masks(torch.arange(-1, 40).view(1, 1, -1))
    assert rendered.shape == (1, 3, 1, 41)
    assert (rendered[0, :, 0, 0] == 0).all()
    assert len({tuple(colour) for colour in rendered[0, :, 0].T.tolist()}) == 41


def test_a_render_shows_image_mask_and_prediction(tmp_path):
    config = dataclasses.replace(DEMO.evaluation, shards=build_set(tmp_path), index=tmp_path / "index", mode="whole")
    labelled = open_segmentation_evaluation(config, world=ALONE)
    task = make_task(dataclasses.replace(DEMO, evaluation=config, num_rendered_images=2), labelled)
    shown = task.render_predictions(lambda images: images)  # its colours are its classes
    assert shown.shape == (3, 2 * 192 + 6, 3 * 192 + 8)
    mask, prediction = shown[:, 2 + 8 : 194, 196:388], shown[:, 2 + 8 : 194, 390:582]
    assert torch.equal(mask, prediction), "below the first row, which is of no class"
    assert not np.allclose(shown[:, 10:194, 2:194], mask)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"name": "convnext_tiny"}}, "model.name: 'convnext_tiny' is not one of hornet_"),
        ({"model": {"channels": 7}}, "model.channels: must be even"),
        ({"model": {"channels": 6, "pyramid": "horfpn_gf"}}, "model.channels: must be a multiple of 4 under pyramid=h"),
        ({"model": {"drop_path_rate": 1.0}}, "model.drop_path_rate: must lie in 0..1"),
        ({"model": {"auxiliary_weight": -1}}, "model.auxiliary_weight: must be 0 or more"),
        ({"model": {"layer_decay_depth": 3}}, "model.layer_decay_depth: must be at least 4"),
        ({"model": {"filter_size": 16}}, "model.filter_size: must be at least 32"),
        ({"run": {"branch_from": "runs/a"}}, "run.branch_from: is for schedules of shape wsd"),
        ({"std": [0, 1, 1]}, "std: must be over 0"),
        ({"num_rendered_images": -1}, "num_rendered_images: must be 0 or more"),
        ({"evaluation": None, "checkpoints": {"best": True}}, "checkpoints.best: needs an evaluation set"),
    ],
)
def test_settings_are_checked(changes, sentence):
    values = to_values(DEMO)
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=sentence):
        build_config(DenseConfig, values, source="test")


def test_arguments_that_the_backbone_does_not_take_are_told():
    model = dataclasses.replace(DEMO.model, arguments={"colour": 3})
    with pytest.raises(UserError, match=r"model.arguments: hornet_atto_gf does not take them: .*colour"):
        build_network(dataclasses.replace(DEMO, model=model), num_classes=3)


def test_a_run_of_segmentation_is_evaluated_as_it_evaluates_unless_told_otherwise(tmp_path):
    write_config(tmp_path, DEMO)
    assert find_dense_run(tmp_path) == find_dense_run(tmp_path / "checkpoints" / "step_00000001") == tmp_path
    trained, config = read_dense(
        tmp_path, tmp_path, config=None, overrides=["evaluation.flip=true", "evaluation.factors=[0.5,1.0]"]
    )
    assert trained == DEMO
    assert config.precision == "fp32"
    assert config.evaluation == dataclasses.replace(DEMO.evaluation, flip=True, factors=(0.5, 1.0))
    with pytest.raises(ConfigError, match=r"evaluation.fip: unknown key; did you mean evaluation\.flip\?"):
        read_dense(tmp_path, tmp_path, config=None, overrides=["evaluation.fip=true"])
    with pytest.raises(ConfigError, match="is for classifiers"):
        read_dense(tmp_path, tmp_path, config=Path("x.yaml"), overrides=[])
    with pytest.raises(UserError, match="has no checkpoint yet"):
        evaluation._find_checkpoint(config)
    with pytest.raises(UserError, match=r"latest: has no manifest\.json; it was not written by this pipeline"):
        evaluation._find_checkpoint(dataclasses.replace(config, source=tmp_path / "checkpoints/latest"))


def test_what_is_for_classifiers_says_that_this_is_none(tmp_path):
    write_config(tmp_path, DEMO)
    sentence = "is a run of launch/dense.py, and this is for classifiers; it can be evaluated"
    for source in (tmp_path, tmp_path / "checkpoints/step_00000001"):
        source.mkdir(parents=True, exist_ok=True)
        with pytest.raises(ConfigError, match=f"1 problem\n{sentence}"):
            export.read_config(source, tmp_path / "out", overrides=[])
        with pytest.raises(ConfigError, match=f"1 problem\n{sentence}"):
            average.read_config("soup", [str(source)])


def test_other_runs_are_none_of_segmentation(tmp_path):
    assert find_dense_run(tmp_path) is None
    write_config(tmp_path, load_config(PretrainConfig, path=ROOT / "configs/demo/pretrain.yaml"))
    assert find_dense_run(tmp_path) is None


def test_a_segmenter_is_no_start_of_a_classifier(monkeypatch, tmp_path):
    found = SimpleNamespace(folder=tmp_path, description={"task": TASK_NAMES["semantic"]})
    monkeypatch.setattr(pretrained, "_newest_of_run", lambda path: found)
    with pytest.raises(UserError, match="holds a network for semantic segmentation, no classifier; start from what"):
        pretrained.read_pretrained(tmp_path, weights="raw", label_space=None)
