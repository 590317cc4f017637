"""The published recipes as data, and the audit that compares a config with them."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from hornet.config import ConfigError, build_config, list_settings, load_config, to_values
from hornet.errors import UserError
from hornet.stages.recipe import PUBLISHED, RecipeConfig, format_audit, list_departures
from pretrain.config import PretrainConfig, require_clipping

ROOT = Path(__file__).resolve().parents[3]
LARGE = load_config(PretrainConfig, path=ROOT / "configs/pretrain/hornet_large_gf_in22k.yaml")
TINY = load_config(PretrainConfig, path=ROOT / "configs/pretrain/hornet_tiny_gf_in1k.yaml")
FINETUNE = load_config(FinetuneConfig, path=ROOT / "configs/finetune/hornet_large_gf_in1k_384.yaml")
OF_LARGE = {"zero.precision", "recipe.clipping", "data.shuffle_window_shards"}

# TRAINING.md @ac9e210, typed from its commands.
KEYS = (
    "model.drop_path_rate",
    "optimizer.clip_grad_norm",
    "data.transform.rand_augment",
    "optimizer.weight_decay",
    "optimizer.ema_decay",
    "schedule.num_epochs",
    "schedule.warmup_epochs",
    "schedule.peak_lr",
)
TABLE = {
    "in1k_tiny_7x7": (0.2, 100, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_tiny_gf": (0.2, 1, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_small_7x7": (0.4, 5, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_small_gf": (0.4, 1, "m12", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_base_7x7": (0.5, 5, "m9", 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_base_gf": (0.5, 1, "m15", 0.05, 0.9999, 300, 20, 4e-3),
    "in22k_large_7x7": (0.2, 5, "m9", 0.1, None, 90, 5, 4e-3),
    "in22k_large_gf": (0.2, 1, "m9", 0.1, None, 90, 5, 4e-3),
    "in1k_384_large_7x7": (0.4, 1, "m9", 1e-8, 0.9999, 30, 0, 5e-5),
    "in1k_384_large_gf": (0.4, 1, "m9", 1e-8, 0.9999, 30, 0, 5e-5),
}


# ConvNeXt's TRAINING.md @231af90 and Swin's configs @00f2800, typed from them: batch, micro batch, and as above.
PEERS = {
    "in1k_tiny_convnext": (4096, 128, 0.1, None, 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_small_convnext": (4096, 128, 0.4, None, 0.05, 0.9999, 300, 20, 4e-3),
    "in1k_base_convnext": (4096, 128, 0.5, None, 0.05, 0.9999, 300, 20, 4e-3),
    "in22k_large_convnext": (4096, 32, 0.1, None, 0.05, None, 90, 5, 4e-3),
    "in1k_384_large_convnext": (512, 16, 0.3, None, 1e-8, None, 30, 0, 5e-5),
    "in1k_tiny_swin": (1024, 128, 0.2, 5, 0.05, None, 300, 20, 1e-3),
    "in1k_small_swin": (1024, 128, 0.3, 5, 0.05, None, 300, 20, 1e-3),
    "in1k_base_swin": (1024, 128, 0.5, 5, 0.05, None, 300, 20, 1e-3),
    "in22k_large_swin": (4096, None, 0.2, 5, 0.05, None, 90, 5, 1e-3),
    "in1k_384_large_swin": (1024, None, 0.2, 5, 1e-8, None, 30, 5, 4e-5),
}


@pytest.mark.parametrize("name", PEERS)
def test_the_rows_of_peers_are_those_of_their_commands(name):
    row = PUBLISHED[name]
    keys = ("global_batch_size", "micro_batch_size", *(key for key in KEYS if not key.endswith("rand_augment")))
    assert tuple(row.get(key) for key in keys) == PEERS[name]
    assert row["data.transform.rand_augment"] == "rand-m9-mstd0.5-inc1"
    _, size, network = name.removeprefix("in1k_384").removeprefix("in1k").removeprefix("in22k").split("_")
    assert row["model.name"] == (f"convnext_{size}" if network == "convnext" else f"swin_{size}_patch4_window7_224")


def test_every_published_recipe_is_typed_here():
    assert PUBLISHED.keys() == {*TABLE, *PEERS}


@pytest.mark.parametrize("name", TABLE)
def test_the_rows_are_those_of_the_originals_commands(name):
    row = PUBLISHED[name]
    magnitude = row["data.transform.rand_augment"].split("-")[1]
    assert tuple(magnitude if key.endswith("rand_augment") else row[key] for key in KEYS) == TABLE[name]
    assert row["global_batch_size"] == (512 if "384" in name else 4096)
    assert row["model.name"] == "hornet_" + "_".join(name.split("_")[-2:])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_of_a_row_is_a_key_of_the_config(name):
    """Else a departure would be reported for ever."""
    settings = list_settings(PretrainConfig) | list_settings(FinetuneConfig)
    keys = {"model.arguments" if key.startswith("model.arguments.") else key for key in PUBLISHED[name]}
    assert keys <= settings.keys()


def test_a_departure_is_told_with_both_values_and_a_remark():
    config = replace(LARGE, global_batch_size=1024)
    departures = {entry.key: entry for entry in list_departures(config)}
    assert set(departures) == {*OF_LARGE, "global_batch_size"}
    assert (departures["global_batch_size"].published, departures["global_batch_size"].ours) == (4096, 1024)
    lines = format_audit("in22k_large_gf", list(departures.values())).splitlines()
    assert lines[0] == "recipe in22k_large_gf: 4 departures from the published values"
    batch = next(line for line in lines if "global_batch_size" in line)
    assert batch.split()[:3] == ["global_batch_size", "4096", "1024"]
    assert batch.endswith("the published learning rate belongs to the published batch; nothing is scaled here")


def test_a_config_without_departures_says_so_and_one_without_a_name_says_nothing():
    assert format_audit("in1k_tiny_gf", []) == "recipe in1k_tiny_gf: no departure from the published values"
    assert list_departures(replace(LARGE, recipe=RecipeConfig())) == []
    published = replace(
        LARGE, recipe=replace(LARGE.recipe, clipping="paper"), zero=replace(LARGE.zero, stage=0, precision="fp32")
    )
    assert list_departures(published, num_shards=64) == []
    (window,) = list_departures(published, num_shards=65)
    assert (window.key, window.published, window.ours) == ("data.shuffle_window_shards", "all", 64)


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        ("large", "micro_batch_size", 16),
        ("large", "micro_batch_size", "auto"),
        ("large", "data.partial_batch", "carry"),
        ("large", "data.transform.crop_ratio", [0.5, 2.0]),
        ("large", "mixing.mean", [0.5, 0.5, 0.5]),
        ("large", "mixing.std", [0.5, 0.5, 0.5]),
        ("tiny", "evaluation.image_size", 256),
        ("tiny", "evaluation.crop_fraction", 1.0),
        ("tiny", "evaluation.crop_fraction", None),
        ("tiny", "evaluation.interpolation", "bilinear"),
        ("finetune", "evaluation.crop_fraction", 0.875),
        ("finetune", "start.weights", "ema"),
        ("finetune", "model.resize", "spectral"),
        ("finetune", "model.head_init_scale", 0.001),
        ("large", "model.head_init_scale", 0.001),
        ("large", "recipe.clipping", "every_micro_step"),
        ("tiny", "schedule.shape", "wsd"),
        ("finetune", "schedule.shape", "wsd"),
    ],
)
def test_nothing_that_the_original_fixes_departs_unseen(base, key, value):
    config, config_class = {
        "large": (LARGE, PretrainConfig),
        "tiny": (TINY, PretrainConfig),
        "finetune": (FINETUNE, FinetuneConfig),
    }[base]
    values = to_values(config)
    part = values
    *parents, leaf = key.split(".")
    for parent in parents:
        part = part[parent]
    part[leaf] = value
    before = {entry.key: entry.ours for entry in list_departures(config)}
    after = {entry.key: entry.ours for entry in list_departures(build_config(config_class, values, source="test"))}
    assert after == before | {key: value}


def test_evaluating_where_the_original_does_not_and_the_other_way_round_is_one_row():
    large = replace(LARGE, evaluation=TINY.evaluation)
    (entry,) = (entry for entry in list_departures(large) if entry.key.startswith("evaluation"))
    assert (entry.key, entry.published, entry.ours) == ("evaluation", None, "split validation")
    (entry,) = (entry for entry in list_departures(replace(TINY, evaluation=None)) if "evaluation" in entry.key)
    assert (entry.key, entry.published, entry.ours) == ("evaluation", "at 224 pixels", None)


def test_the_originals_own_name_of_a_network_is_no_departure():
    named = replace(FINETUNE, model=replace(FINETUNE.model, name="hornet_large_gf_img384"))
    assert list_departures(named) == list_departures(FINETUNE)
    base = replace(FINETUNE, model=replace(FINETUNE.model, name="hornet_base_gf_img384"))
    assert "model.name" in {entry.key for entry in list_departures(base)}


def test_an_unknown_recipe_is_answered_with_the_nearest_or_all():
    values = to_values(LARGE)
    for wrong, answer in (("in22k_large", "did you mean in22k_large_"), ("?", "known here: in1k_tiny_7x7, ")):
        values["recipe"]["published"] = wrong
        with pytest.raises(ConfigError, match=answer):
            build_config(PretrainConfig, values, source="test")


def test_clipping_as_in_the_paper_needs_whole_gradients_between_micro_steps():
    paper = replace(LARGE, recipe=RecipeConfig(clipping="paper"))
    with pytest.raises(
        UserError, match=r"between two of the 2 micro steps, but with zero\.stage=1 .*; use zero\.stage=0"
    ):
        require_clipping(paper, num_micro_steps=2)
    unsharded = replace(paper, zero=replace(paper.zero, stage=0))
    for num_micro_steps in (2, 4, 8):
        require_clipping(unsharded, num_micro_steps=num_micro_steps)
    for num_micro_steps in (1, 3):
        with pytest.raises(
            UserError, match=f"here the step has {num_micro_steps}, which cannot be halved: choose a micro"
        ):
            require_clipping(unsharded, num_micro_steps=num_micro_steps)
    every = replace(paper, recipe=RecipeConfig(clipping="every_micro_step"))
    require_clipping(every, num_micro_steps=1)
    with pytest.raises(UserError, match="every_micro_step clips between two of the 3 micro steps"):
        require_clipping(every, num_micro_steps=3)
