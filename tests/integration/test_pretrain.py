import json
import re

import numpy as np
import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hornet.config import load_config
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.model.build import build_model
from hornet.seeding import derive_seed
from hornet.stages.classification import Classification
from hornet.stages.run_digest import digest_run
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.engines.deepspeed_files import EMA, WEIGHT, ZeroCheckpoint
from hornet.training.schedule import plan_schedule
from hornet.world import ALONE, World
from pretrain.config import PretrainConfig
from tests.integration.conftest import ROOT, Ranks, kill_when, launch, read_last_step, read_rows, run_python

pytestmark = pytest.mark.slow

EXACT = ("step", "loss", "lr", "grad_norm", "batch_digest", "images_seen")


def assert_same_checkpoint(one, other):
    """Equal to the bit in all but ZeRO-3's padding, which is memory as it was found."""
    left, right = ZeroCheckpoint(one), ZeroCheckpoint(other)
    assert left.kinds == right.kinds == ("exp_avg", "exp_avg_sq", EMA)
    for kind in (WEIGHT, *left.kinds):
        states = left.read_all(kind), right.read_all(kind)
        assert states[0].keys() == states[1].keys()
        assert sum(tensor.numel() for tensor in states[0].values()) > 100_000
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), kind
    assert left.groups == right.groups
    assert left.counters == right.counters
    for group in left.groups:
        assert left.steps_of(group["names"]) == right.steps_of(group["names"]) == 12


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_and_resumed_run_is_the_undisturbed_run_to_the_bit(pretraining, tmp_path, stage):
    changes = {"zero__stage": stage, "zero__precision": "bf16", "optimizer__ema_decay": 0.9}
    config = pretraining(**changes, cadence__norms_every_steps=5, evaluation__per_image=True)
    undisturbed, killed = tmp_path / "runs/undisturbed", tmp_path / "runs/killed"
    launch("pretrain.py", "--config", config, "run.name=undisturbed")

    ranks = Ranks("pretrain.py", "--config", config, "run.name=killed")
    if stage == 1:  # between two checkpoints
        kill_when(lambda: read_last_step(killed) >= 5, ranks)
    else:  # in the middle of writing one
        kill_when(lambda: any(killed.glob("checkpoints/step_00000006.partial/*.pt")), ranks)
    assert not (killed / "summary.json").exists()
    last_step = read_last_step(killed)
    _, outputs = launch("pretrain.py", "--config", config, "run.name=killed")

    assert "resuming" in outputs[0]
    assert re.search("from step [46]$", outputs[0], re.MULTILINE)
    rows = [[{key: row[key] for key in EXACT} for row in read_rows(run)] for run in (undisturbed, killed)]
    assert len(rows[0]) == 12
    assert rows[0] == rows[1]
    assert_same_checkpoint(undisturbed / "checkpoints/step_00000012", killed / "checkpoints/step_00000012")
    summaries = [json.loads((run / "summary.json").read_text()) for run in (undisturbed, killed)]
    assert summaries[0]["evaluations"] == summaries[1]["evaluations"]
    assert {row["weights"]: row["num_images"] for row in summaries[0]["evaluations"]} == {"raw": 13, "ema": 13}
    assert_image_results(undisturbed, killed, rows=summaries[0]["evaluations"])
    digest = digest_run(load_config(PretrainConfig, path=config))
    assert [(row["digest"], row["parent"]) for row in summaries] == [(digest, None)] * 2
    assert [row["num_attempts"] for row in summaries] == [1, 2]
    assert summaries[1]["seconds"] > summaries[1]["seconds_in_last_attempt"]
    assert json.loads((killed / "status.json").read_text())["state"] == "finished"
    assert_board(killed / "tensorboard")
    assert_diary(killed, last_step=last_step)
    norms = [read_rows(run, "norms") for run in (undisturbed, killed)]
    assert [row["step"] for row in norms[0]] == [5, 10]
    assert norms[0] == norms[1], "measured where the optimizer steps, so equal to the bit"


def assert_image_results(undisturbed, killed, *, rows):
    """Each of the 13 images once, though two ranks shared them and padded the last batch."""
    for row in rows:
        name = f"per_image/step_00000012_{row['weights']}.npz"
        with (
            np.load(undisturbed / name, allow_pickle=False) as one,
            np.load(killed / name, allow_pickle=False) as other,
        ):
            assert all((one[key] == other[key]).all() for key in ("key_hash", "loss", "hit"))
            assert len(np.unique(one["key_hash"])) == len(one["loss"]) == row["num_images"]
            assert one["hit"].mean() * 100 == pytest.approx(row["top1"])
            assert one["loss"].astype(float).mean() == pytest.approx(row["loss"], rel=1e-3)


def assert_diary(killed, *, last_step):
    """events.jsonl tells both attempts; the images stand beside it."""
    events = read_rows(killed, "events")
    starts = [event for event in events if event["event"] == "starting"]
    assert [(event["step"], event["lost_steps"]) for event in starts[:1]] == [(0, 0)]
    assert starts[1]["lost_steps"] == last_step - starts[1]["step"] >= 0
    assert [event["event"] for event in events].count("running") == 2
    assert events[-1]["event"] == "finished"
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    saves = [event["step"] for event in events if event["event"] == "save" and event["seconds"] > 0]
    assert saves[-1] == 12
    assert {event["weights"] for event in events if event["event"] == "evaluate"} == {"raw", "ema"}
    names = {path.name for path in (killed / "images").iterdir()}
    assert {"augmented_images_step_00000001.png", "augmented_images_step_00000012.png"} <= names
    filters = [name for name in names if name.startswith("filter_stages.") and name.endswith("_step_00000012.png")]
    assert len(filters) == 3, "all there are"


def assert_board(folder):
    """TensorBoard shows each logged step once, across both attempts, and the images."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 13))
    images = set(board.Tags()["images"])
    assert "augmented_images" in images
    assert len([name for name in images if name.startswith("filter/stages.")]) == 3


def train_alone(path):
    """The same run by other means: one process, Accelerate, four micro steps; return losses, norms and weights."""
    config = load_config(PretrainConfig, path=path)
    stream = open_train_stream(
        config.data, world=ALONE, seed=config.run.seed, global_batch_size=8, micro_batch_size=config.micro_batch_size
    )
    task = Classification(
        mixing=config.mixing,
        label_space=stream.label_space,
        labelled=None,
        seed=config.run.seed,
        num_micro_steps=stream.num_micro_steps,
        world=ALONE,
        device=torch.device("cpu"),
        beat=lambda: None,
    )
    model = build_model(config.model, num_classes=3, image_size=32, seed=derive_seed("weights", config.run.seed))
    engine = AccelerateEngine(
        model,
        precision="fp32",
        optimizer=config.optimizer,
        compute_loss=task.compute_loss,
        derive_step_seed=task.derive_step_seed,
        device=task.device,
        is_main=True,
    )
    schedule = plan_schedule(config.schedule, steps_per_epoch=stream.steps_per_epoch)
    batches = stream.iterate(0, schedule.num_steps)
    results = [
        engine.run_step(
            [next(batches) for _ in range(4)], step=step, lr=schedule.lr_at(step), accept=lambda _loss, _norm: True
        )
        for step in range(schedule.num_steps)
    ]
    return [float(result.loss) for result in results], [result.grad_norm for result in results], model.state_dict()


def test_stages_learn_what_a_single_process_learns(pretraining, tmp_path):
    """Stage 0 and 3 on two ranks against one process without DeepSpeed; each stage's files read as one state dict."""
    weights = {}
    for stage in (0, 3):
        config = pretraining(zero__stage=stage, zero__precision="fp32", run__name=f"z{stage}")
        if stage == 0:
            launch("pretrain.py", "--config", config, "optimizer.ema_decay=0.5")
        else:
            launch("pretrain.py", "--config", config)
        run = tmp_path / "runs" / f"z{stage}"
        weights[stage] = ZeroCheckpoint(run / "checkpoints/step_00000012").read_all(WEIGHT)
        assert json.loads((run / "summary.json").read_text())["evaluations"][0]["num_images"] == 13
    expected_losses, expected_norms, expected_weights = train_alone(tmp_path / "config.yaml")
    for stage in (0, 3):
        rows = read_rows(tmp_path / "runs" / f"z{stage}")
        assert [row["loss"] for row in rows] == pytest.approx(expected_losses, rel=1e-4)
        assert [row["grad_norm"] for row in rows] == pytest.approx(expected_norms, rel=1e-3)
        assert weights[stage].keys() == expected_weights.keys()
        apart = torch.cat(
            [(weights[stage][name] - expected_weights[name]).abs().flatten() for name in expected_weights]
        )
        assert apart.max() < 1e-3, "Adam divides by small moments: single weights may differ by parts of a step"
        assert apart.mean() < 1e-6
    theirs = get_fp32_state_dict_from_zero_checkpoint(str(tmp_path / "runs/z3/checkpoints"))
    assert theirs.keys() == weights[3].keys()
    assert all(torch.equal(theirs[name], weights[3][name]) for name in theirs), "DeepSpeed's own reader agrees"
    ema = ZeroCheckpoint(tmp_path / "runs/z0/checkpoints/step_00000012").read_all(EMA)
    assert ema.keys() == weights[0].keys()
    assert not torch.equal(ema["head.weight"], weights[0]["head.weight"])


def test_any_number_of_ranks_sees_the_same_batches(pretraining, tmp_path, shards):
    """The digests equal those computed here from the order alone, on one process and on two ranks."""
    config = pretraining(schedule__num_epochs=1)
    run_python(ROOT / "launch/pretrain.py", "--config", config, "run.name=one")
    digests = [row["batch_digest"] for row in read_rows(tmp_path / "runs/one")]
    sums = [0] * 6
    for rank in range(4):
        world = World(rank=rank, num_ranks=4, local_rank=rank, num_local_ranks=4, master_address="", master_port=0)
        stream = open_train_stream(
            StreamConfig(shards=shards, shuffle_window_shards=2, transform=TransformConfig(image_size=8)),
            world=world,
            seed=1,
            global_batch_size=8,
            micro_batch_size=1,
        )
        for number, batch in enumerate(stream.iterate(0, 6)):
            sums[number // 2] += int(batch.key_hashes.sum())
    assert digests == [f"{value % 2**64:016x}" for value in sums]


def test_what_a_finished_or_changed_run_answers(pretraining, tmp_path):
    config, run = pretraining(schedule__num_epochs=1), tmp_path / "runs/pretrain"

    def start(*changes, code=0):
        codes, outputs = launch("pretrain.py", "--config", config, *changes, num_ranks=1, check=False)
        assert codes == [code], outputs
        return outputs[0]

    run_python(ROOT / "launch/pretrain.py", "--config", config)
    summary = (run / "summary.json").read_bytes()
    assert "already finished" in start()
    assert (run / "summary.json").read_bytes() == summary

    assert "run.seed: 1 -> 5" in start("run.seed=5", code=2), "not this run, finished or not"

    (run / "summary.json").unlink()
    changed = ["optimizer.weight_decay=0.1", "schedule.peak_lr=1", "cadence.log_every_steps=5"]
    output = start(*changed, code=2)
    assert "optimizer.weight_decay: 0.05 -> 0.1" in output
    assert "schedule.peak_lr: 0.002 -> 1" in output
    assert "cadence" not in output
    assert "Traceback" not in output

    evaluations = read_rows(run, "evaluations")
    (run / "evaluations.jsonl").write_text("")  # as if killed between the last checkpoint and its evaluation
    start()
    assert read_rows(run, "evaluations") == evaluations
    assert json.loads((run / "summary.json").read_text())["evaluations"] == evaluations


def test_bad_input_ends_all_ranks_with_2_and_a_sentence(pretraining, tmp_path):
    codes, outputs = launch("pretrain.py", "--config", pretraining(), "global_batch_size=7", check=False)
    assert codes == [2, 2], outputs
    assert (
        "1 problem\nglobal_batch_size 7 cannot be divided over 2 ranks; world sizes that divide it: 1, 7" in outputs[0]
    )
    assert outputs[1] == "", "rank 0 says it"
    assert not (tmp_path / "runs").exists(), "nothing is left behind"
