"""The digest of what a run learns: what changes it, what does not, and what it needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config import FinetuneConfig
from hornet.config import build_config, list_settings, load_config, to_values
from hornet.errors import UserError
from hornet.formats import UNWRITTEN
from hornet.stages.run_digest import NAMES, digest_parts, digest_run, list_learned
from pretrain.config import PretrainConfig
from tests.patience import PATIENCE
from tests.unit.shards.making import index, write_shards

ROOT = Path(__file__).resolve().parents[3]
PRETRAIN, FINETUNE = ROOT / "configs/demo/pretrain.yaml", ROOT / "configs/demo/finetune.yaml"
PARENT = "ab" * 32


def load(*overrides, path=PRETRAIN):
    config_class = FinetuneConfig if path == FINETUNE else PretrainConfig
    return load_config(config_class, path=path, overrides=overrides)


def digest(*overrides, train="t", evaluation="e"):
    return digest_parts(load(*overrides), train=train, evaluation=evaluation, parent=None)


@pytest.mark.parametrize(
    "override",
    [
        "run.name=x",
        "run.root=y",
        "data.shards=/a/copy",
        "data.index=/indexes",
        "data.num_workers=7",
        "cadence.save_every_steps=3",
        "zero.stage=3",
        "tracking.tensorboard=false",
        "checkpoints.newest=7",
        "model.compile=true",
    ],
)
def test_names_places_and_what_a_resumed_run_may_change_do_not_count(override):
    assert digest(override) == digest()


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=1",
        "model.name=hornet_atto_7x7",
        "schedule.num_epochs=13",
        "schedule.shape=wsd",
        "schedule.peak_lr=0.0021",
        "global_batch_size=32",
        "data.transform.flip_probability=0.5",
        "evaluation.crop_fraction=0.9",
        "optimizer.ema_decay=0.9",
        "zero.precision=bf16",
        "evaluation=null",
        "model.arguments={block_form: convnext}",
    ],
)
def test_what_is_learned_and_measured_counts(override):
    assert digest(override) != digest()


def test_every_setting_counts_or_is_resumable_or_a_name():
    values = list_learned(load())
    rest = {key for key, setting in list_settings(PretrainConfig).items() if not setting.is_resumable} - values.keys()
    sections = {"evaluation"}  # it is there: its own keys count
    assert rest - sections - set(NAMES) == {key for key in rest if load_value(key) == UNWRITTEN.get(key, "absent")}


def load_value(key):
    value = to_values(load())
    for part in key.split("."):
        value = value[part]
    return value


def test_sets_count_by_their_content():
    assert digest(train="u") != digest()
    assert digest(evaluation="u") != digest()
    assert digest(train="e", evaluation="t") != digest(), "neither stands for the other"


def test_numbers_count_by_their_value():
    values = to_values(load())
    values["schedule"]["num_epochs"] = 12  # a float field
    config = build_config(PretrainConfig, values, source="test")
    object.__setattr__(config.schedule, "num_epochs", 12)
    assert digest_parts(config, train="t", evaluation="e", parent=None) == digest()


def test_a_setting_of_a_later_release_does_not_change_it_while_it_does_as_before():
    assert "recipe.clipping" not in list_learned(load()), "it came with 0.1.0, and is standard here"
    assert "recipe.clipping" in list_learned(load("recipe.clipping=every_micro_step"))


def test_a_finetuning_counts_what_it_starts_from_and_not_where_that_lies():
    def tuned(*overrides, parent=PARENT):
        return digest_parts(load(*overrides, path=FINETUNE), train="t", evaluation="e", parent=parent)

    assert tuned("start.from=elsewhere") == tuned()
    assert tuned(parent="cd" * 32) != tuned()
    assert tuned("start.weights=ema") != tuned()
    with pytest.raises(UserError, match=r"^start.from: a finetuning run has no digest without that of the weights"):
        tuned(parent=None)
    with pytest.raises(UserError, match=r"^a pretraining run starts from no other's weights; give no parent$"):
        digest_parts(load(), train="t", evaluation="e", parent=PARENT)


def test_it_is_computed_from_the_sets_of_a_config_wherever_they_lie(tmp_path):
    write_shards(tmp_path / "a", num_shards=2, samples_per_shard=3)
    index(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    write_shards(tmp_path / "b", num_shards=1, samples_per_shard=3)
    index(tmp_path / "b")

    def digest_at(folder):
        overrides = [f"{part}.{key}" for part in ("data", "evaluation") for key in (f"shards={folder}", "split=train")]
        return digest_run(load(*overrides))

    assert digest_at(tmp_path / "a") == digest_at(tmp_path / "copy")
    assert digest_at(tmp_path / "a") != digest_at(tmp_path / "b")


def test_it_needs_no_torch():
    code = "import hornet.stages.run_digest, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "False\n", done.stderr


def test_tars_that_were_never_indexed_are_indexed_where_the_config_says(tmp_path):
    write_shards(tmp_path / "tars")
    places = [f"data.shards={tmp_path}/tars/toy-*.tar", f"data.index={tmp_path}/index", "evaluation=null"]
    assert digest_run(load(*places)) == digest_run(load(*places, "run.name=again"))
    assert list((tmp_path / "index").rglob("train.index.npy"))
