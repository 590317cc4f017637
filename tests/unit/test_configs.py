"""Every shipped config loads, builds its model and says how to run it."""

from pathlib import Path

import pytest
import torch
import yaml

from dense.config import TASKS, DenseConfig
from dense.networks import build_network
from finetune.config import FinetuneConfig
from hornet.cli.evaluate import read_config
from hornet.config import ConfigError, build_config, load_config, to_values
from hornet.data.instances_config import InstanceCropConfig
from hornet.model.build import build_model
from hornet.stages.config import EvaluateConfig, ExportConfig
from hornet.stages.recipe import PUBLISHED, list_departures
from pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "scaling"]
"""Of runs and evaluations; studies of many runs are loaded by tests/unit/scaling/test_expansion.py."""
EVALUATIONS = [path for path in FILES if path.parent.name == "evaluate"]
DENSE = [path for path in FILES if path.parent.name == "dense" or path.stem in ("segmentation", "instances")]
INSTANCES = [path for path in DENSE if "task: instances" in path.read_text()]
SEGMENTATIONS = [path for path in DENSE if path not in INSTANCES]
RUNS = [path for path in FILES if path not in EVALUATIONS + DENSE]
DEMO = load_config(PretrainConfig, path=ROOT / "configs/demo/pretrain.yaml")


def choose_class(path):
    return FinetuneConfig if "finetune" in str(path.relative_to(ROOT)) else PretrainConfig


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_loads_and_its_model_is_built(path):
    config = load_config(choose_class(path), path=path)
    with torch.device("meta"):
        build_model(config.model, num_classes=7, image_size=config.data.transform.image_size, seed=0)


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.name)
def test_an_evaluation_loads_for_a_weight_file(path, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04")
    config = read_config(tmp_path / "x.pth", config=path, overrides=["model=hornet_tiny_gf"])
    assert config.evaluation.image_size == (384 if "384" in path.name else 224)
    assert config.judge.by_name == (
        config.judge.subset is not None or path.stem in ("imagenet_v2", "imagenet_22k_on_1k")
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", SEGMENTATIONS, ids=lambda path: path.name)
def test_a_segmentation_loads_and_its_network_is_built(path):
    config = load_config(DenseConfig, path=path)
    with torch.device("meta"):
        network = build_network(config, num_classes=7)
    if path.parent.name == "dense":
        assert config.model.name in path.stem
        assert "ac9e210" in path.read_text(), "names the source of its numbers"
        assert "not measured by us" in path.read_text()
        large = "large" in path.stem
        assert (config.data.transform.crop_size, config.optimizer.layer_decay) == ((640, 0.8) if large else (512, 0.9))
        assert (config.optimizer.clip_grad_norm is None) == ("7x7" in path.stem)
        assert config.model.layer_decay_depth == (6 if "tiny" in path.stem else 12)
        rates = [network.count_decays(f"backbone.stages.{stage}.0.gamma1") for stage in range(4)]
        assert rates == [config.model.layer_decay_depth - stage for stage in range(4)]


COCO_EPOCH_STEPS = 7330
"""Batches of 16 of the 117,266 images of train2017 that have objects."""
COCO = [path for path in INSTANCES if path.parent.name == "dense"]


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.name)
def test_a_detector_s_config_loads_and_its_network_is_built(path):
    config = load_config(TASKS, path=path)
    with torch.device("meta"):
        network = build_network(config, num_classes=7)
    rates = [network.count_decays(f"backbone.body.stages.{stage}.0.gamma1") for stage in range(4)]
    assert rates == [12, 11, 10, 1]


@pytest.mark.parametrize("path", COCO, ids=lambda path: path.name)
def test_a_config_for_coco_has_the_original_s_numbers(path):
    config = load_config(TASKS, path=path)
    assert path.stem.startswith(f"{config.model.detector}_{config.model.name}")
    assert "ac9e210" in path.read_text(), "names the source of its numbers"
    assert "not measured by us" in path.read_text()
    is_cascade = config.model.detector == "cascade_mask_rcnn"
    epochs, drops = (36, (27, 33)) if is_cascade else (12, (8, 11))
    assert config.schedule.num_steps == epochs * COCO_EPOCH_STEPS
    assert config.schedule.drop_steps == tuple(epoch * COCO_EPOCH_STEPS for epoch in drops)
    assert (config.schedule.warmup_steps, config.schedule.warmup_factor) == (500, 1e-3)
    size = config.model.name.split("_")[1]
    assert config.schedule.peak_lr == (2e-4 if is_cascade and size != "large" else 1e-4)
    assert config.optimizer.layer_decay == (0.95 if not is_cascade else 0.8 if size == "base" else 0.7)
    assert config.model.drop_path_rate == {"tiny": 0.4, "small": 0.6, "base": 0.7, "large": 0.7}[size]
    assert config.model.filter_size == (384 if size == "large" else 224)
    assert (config.optimizer.weight_decay, config.optimizer.clip_grad_norm) == (0.05, None)
    assert (config.precision, config.global_batch_size) == ("fp32", 16)
    assert config.data.transform.short_edges == tuple(range(480, 801, 32))
    crop = InstanceCropConfig(probability=0.5, short_edges=(400, 500, 600), min_edge=384, max_edge=600)
    assert config.data.transform.crop == crop
    assert config.data.transform.max_long_edge == config.evaluation.max_long_edge == 1333
    assert config.evaluation.short_edge == 800


def test_each_detector_of_the_original_s_has_a_config():
    names = [path.stem.removesuffix("_coco") for path in COCO]
    cascades = [
        f"cascade_mask_rcnn_hornet_{size}_{kind}"
        for size in ("base", "large", "small", "tiny")
        for kind in ("7x7", "gf")
    ]
    assert names == cascades + [f"mask_rcnn_hornet_small_7x7{neck}" for neck in ("", "_horfpn_7x7", "_horfpn_gf")]


EXPECTED_DEPARTURES = {
    "pretrain/hornet": {"zero.precision", "data.shuffle_window_shards"},
    "finetune/hornet": {"precision", "data.shuffle_window_shards"},
    "_224": {"data.transform.image_size", "evaluation.image_size", "evaluation.crop_fraction"},
    "hornet_xlarge": {"model.name", "micro_batch_size"},
    "hornet_huge": {"model.name", "model.drop_path_rate", "micro_batch_size"},
    "hornet_small": {"recipe.clipping"},
    "hornet_base": {"recipe.clipping"},
    "gf_in22k": {"recipe.clipping"},
    "7x7_in22k": {"recipe.clipping"},
    "pretrain/convnext": {"zero.precision", "data.shuffle_window_shards"},
    "finetune/convnext": {"precision", "data.shuffle_window_shards"},
    "/swin": {"data.shuffle_window_shards"},
    "swin_large_in22k": {"evaluation"},
}
SOURCES = {"hornet": "ac9e210", "convnext": "231af90", "swin": "00f2800"}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(ROOT)))
def test_departs_from_the_published_recipe_where_expected_and_nowhere_else(path):
    """bf16 autocast, clipping once a step and a window of shuffling; networks and sizes without a published recipe."""
    config = load_config(choose_class(path), path=path)
    name = str(path.relative_to(ROOT / "configs"))
    expected = set().union(*(keys for part, keys in EXPECTED_DEPARTURES.items() if part in name))
    assert {departure.key for departure in list_departures(config)} == expected
    if not name.startswith(("demo/", "openclipart/", "clipart/")):
        assert SOURCES[path.name.split("_")[0]] in path.read_text(), "names the source of its numbers"
        assert "not measured by us" in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_is_short_and_starts_with_its_command(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 50
    header = [line for line in lines if line.startswith("#")]
    assert any("launch/" in line and "--config" in line and str(path.relative_to(ROOT)) in line for line in header)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.name", "hornet_tiny", r"model\.name: 'hornet_tiny' is not one of .*hornet_tiny_gf"),
        ("zero.stag", 1, r"zero\.stag: unknown key; did you mean zero\.stage\?"),
        ("run.stop_at", "2026-11-22T18:00:00", r"run\.stop_at: needs a time zone, such as 2026-11-22T18:00:00\+00:00"),
        (
            "run.stop_at",
            "tonight",
            r"run\.stop_at: must be a time, such as .* or null, not 'tonight'",
        ),
        ("run.stall_seconds", 0, r"run\.stall_seconds: must be above 0, or null, not 0"),
        ("zero.stage", 4, r"zero\.stage: must be 0, 1, 2 or 3, not 4$"),
        ("run.name", "a[b]", r"run\.name: may hold letters"),
        ("run.name", "a/../../b", r"run\.name: must name a folder below run\.root, not 'a/\.\./\.\./b'"),
        ("run.name", ".", r"run\.name: must name a folder below run\.root, not '\.'"),
        ("optimizer.clip_grad_norm", 0, r"optimizer\.clip_grad_norm: must be above 0, or null"),
        ("schedule.warmup_epochs", 99, r"schedule\.warmup_epochs: must lie in"),
        ("mixing.label_smoothing", 1, r"mixing\.label_smoothing: "),
        ("recipe.published", "in1k_tiny_fg", r"recipe\.published: .*did you mean in1k_tiny_gf\?"),
        ("recipe.clipping", "papier", r"recipe\.clipping: "),
        ("schedule.peak_lr", -1.0, r"schedule\.peak_lr: must be 0 or more, and finite, not -1"),
        ("schedule.peak_lr", float("nan"), r"schedule\.peak_lr: must be a finite number"),
        ("micro_batch_size", "all", r"micro_batch_size.*: "),
        (
            "zero.offload_optimiser",
            True,
            r"zero\.offload_optimiser: unknown key; did you mean zero\.offload_optimizer\?",
        ),
        ("zero.wall_clock_breakdown", True, r"zero\.wall_clock_breakdown: unknown key; known here: stage, "),
        ("data.transform.crop_scale", [0, 1], r"data\.transform\.crop_scale: "),
        ("data.transform.image_size", 31, r"data\.transform\.image_size: must be at least 32 pixels, .* not 31"),
        ("evaluation.image_size", 16, r"evaluation\.image_size: must be at least 32 pixels, .* not 16"),
        ("optimizer.betas", [2, 3], r"optimizer\.betas: must be two rates from 0 to 1 \(1 excluded\), not \[2\.0, 3"),
        ("optimizer.betas", [0.9, 1], r"optimizer\.betas: must be two rates from 0 to 1"),
        ("optimizer.betas", [-0.1, 0.9], r"optimizer\.betas: must be two rates from 0 to 1"),
        ("optimizer.epsilon", -1, r"optimizer\.epsilon: must be above 0, not -1"),
        ("optimizer.epsilon", 0, r"optimizer\.epsilon: must be above 0, not 0"),
        ("global_batch_size", 0, r"global_batch_size: must be at least 1, not 0"),
        ("micro_batch_size", 0, r"micro_batch_size: must be at least 1, not 0"),
        ("micro_batch_size", -4, r"micro_batch_size: must be at least 1, not -4"),
        ("model.layer_scale_init", -1, r"model\.layer_scale_init: must be 0 or more, not -1"),
    ],
)
def test_bad_values_are_refused_with_their_key(key, value, message):
    values = to_values(DEMO)
    *parents, leaf = key.split(".")
    target = values
    for parent in parents:
        target = target[parent]
    target[leaf] = value
    with pytest.raises(ConfigError, match=message):
        build_config(PretrainConfig, values, source="test")


def test_weights_are_not_evaluated_on_images_too_small_for_the_network(tmp_path):
    values = {"source": str(tmp_path), "evaluation": {"shards": str(tmp_path), "image_size": 31}}
    with pytest.raises(ConfigError, match=r"evaluation\.image_size: must be at least 32 pixels, .* not 31"):
        build_config(EvaluateConfig, values, source="test")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("global_batch_size", 0, r"global_batch_size: must be at least 1, not 0"),
        ("micro_batch_size", 0, r"micro_batch_size: must be at least 1, not 0"),
        ("model.layer_scale_init", -1, r"model\.layer_scale_init: must be 0 or more, not -1"),
    ],
)
@pytest.mark.parametrize("name", ["segmentation", "instances"])
def test_bad_values_of_a_dense_run_are_refused_with_their_key(name, key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TASKS, path=ROOT / f"configs/demo/{name}.yaml", overrides=[f"{key}={value}", "start.from=x"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop_fraction", 0, r"crop_fraction: must be over 0 and at most 1, or null, not 0"),
        ("crop_fraction", 1.5, r"crop_fraction: must be over 0 and at most 1, or null, not 1\.5"),
        ("std", [0.2, 0, 0.2], r"std: must be over 0 in each channel, not \(0\.2, 0\.0, 0\.2\)"),
        ("module", "my-networks", r"module: must be the dotted name of a Python module, .* not 'my-networks'"),
    ],
)
def test_bad_values_of_an_export_are_refused_with_their_key(key, value, message):
    with pytest.raises(ConfigError, match=message):
        build_config(ExportConfig, {"source": "x", "output": "y", "image_size": 64, key: value}, source="test")


def test_keeping_the_best_needs_evaluations_of_saved_weights():
    values = to_values(DEMO)
    values["checkpoints"] = {"best": True}
    values["cadence"] |= {"save_every_steps": 40, "evaluate_every_steps": 100}
    with pytest.raises(ConfigError, match=r"checkpoints\.best: needs.*multiple of cadence\.save_every_steps \(40\)"):
        build_config(PretrainConfig, values, source="test")
    values["cadence"]["evaluate_every_steps"] = 80
    assert build_config(PretrainConfig, values, source="test").checkpoints.best


@pytest.mark.parametrize("text", ["2026-11-22T18:00:00+01:00", "2026-11-22T17:00:00Z", "1795366800"])
def test_a_deadline_is_one_moment_however_it_is_written(text):
    path = ROOT / "configs/demo/pretrain.yaml"
    config = load_config(PretrainConfig, path=path, overrides=[f"run.stop_at={text}"])
    assert config.run.stop_at.timestamp() == 1795366800
    assert build_config(PretrainConfig, to_values(config), source="config.yaml").run.stop_at == config.run.stop_at


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero": {"stage": 0, "offload_optimizer": True}}, r"zero\.offload_optimizer: needs stage 1, 2 or 3"),
        ({"zero": {"stage": 3}, "model": {"compile": True}}, r"model\.compile: gives dozens of small graphs"),
        (
            {"recipe": {"clipping": "paper"}, "optimizer": {"clip_grad_norm": None}},
            r"recipe\.clipping: paper needs optimizer\.clip_grad_norm",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    values = to_values(DEMO)
    for part, changed in changes.items():
        values[part] |= changed
    with pytest.raises(ConfigError, match=message):
        build_config(PretrainConfig, values, source="test")


def test_every_published_recipe_has_a_config():
    named = {load_config(choose_class(path), path=path).recipe.published for path in RUNS}
    assert named - {None} == set(PUBLISHED)


def test_the_table_of_recipes_says_what_the_configs_say():
    rows = [
        line.strip("| \n").split(" | ")
        for line in (ROOT / "docs/recipes.md").read_text().splitlines()
        if line.startswith(("| `pretrain/", "| `finetune/"))
    ]
    assert {f"{row[0].strip('`')}.yaml" for row in rows} == {
        str(path.relative_to(ROOT / "configs"))
        for stage in ("pretrain", "finetune")
        for path in (ROOT / "configs" / stage).glob("*.yaml")
    }
    for name, published, batch, lr, epochs, drop_path, clip, ema, *stage in rows:
        values = yaml.safe_load((ROOT / f"configs/{name.strip('`')}.yaml").read_text())
        assert values["recipe"]["published"] == published
        assert values["global_batch_size"] == int(batch)
        assert float(values["schedule"]["peak_lr"]) == float(lr)
        assert values["schedule"]["num_epochs"] == int(epochs)
        assert values["model"]["drop_path_rate"] == float(drop_path)
        assert values["optimizer"].get("clip_grad_norm") == (None if clip == "-" else float(clip))
        assert values["optimizer"].get("ema_decay") == (None if ema == "-" else float(ema))
        assert values.get("zero", {}).get("stage") == (int(stage[0]) if stage and stage[0] else None)
