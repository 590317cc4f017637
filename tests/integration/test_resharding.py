"""ZeRO checkpoints between worlds of 1 to 4 ranks and all stages, held against what DeepSpeed's own functions tell."""

import json

import pytest
import torch

from hornet.errors import UserError
from hornet.training.engines.deepspeed_files import EMA, WEIGHT, ZeroCheckpoint
from tests.integration.conftest import run_python

pytestmark = pytest.mark.slow
PHASES = ("write:4", "read:1", "write:2", "read:3")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The folder of checkpoints that `resharding.py` wrote and read."""
    folder = tmp_path_factory.mktemp("worlds")
    run_python("-m", "tests.integration.resharding", str(folder), *PHASES)
    return folder


def list_written(worlds, *, stages=(0, 1, 2, 3)):
    return [folder for folder in sorted(worlds.glob("z*_n*")) if int(folder.name[1]) in stages]


def test_every_stage_and_number_of_ranks_resumes_from_every_other(worlds):
    """Weights, moments, average, step counts, hyper-parameters, buffers are equal to the bit, and go on as one run."""
    rows = [row for ranks in (1, 3) for row in json.loads((worlds / f"read_n{ranks}.json").read_text())]
    pairs = {(row["written"], row["read"]) for row in rows}
    assert len(pairs) == 4 * 4 + 8 * 4, "all stages of 4 ranks into all of 1, of 4 and 2 into all of 3"
    for row in rows:
        assert row["step"] == 4, row
        assert row["state"] == row["model"] == row["ema"] == 0, row
        assert row["same"], row
        assert row["returned"], "evaluating the average leaves no trace"
        assert row["end"] < 1e-6, row


def test_the_average_and_the_moments_are_not_the_weights(worlds):
    """Else the test above could not tell one from the other."""
    for folder in list_written(worlds):
        saved = torch.load(folder / "truth.pt")
        assert saved["steps"] == [3.0], "one of four steps was dropped"
        assert saved["buffers"]["num_forwards"] == [3.0, 3.0], "and left nothing in the buffers either"
        assert {group["weight_decay"] for group in saved["groups"]} == {0.0, 0.1}
        for name, kinds in saved["truth"].items():
            assert len({tuple(tensor.flatten().tolist()) for tensor in kinds.values()}) == 4, name
            assert not torch.equal(kinds["weight"], saved["end"][name]["weight"])


def test_files_read_without_ranks_are_the_truth(worlds):
    for folder in list_written(worlds):
        saved = torch.load(folder / "truth.pt")
        checkpoint = ZeroCheckpoint(folder / "step_00000004")
        for kind in (WEIGHT, EMA):
            found = checkpoint.read_all(kind)
            assert found.keys() == saved["truth"].keys() | {"num_forwards"}
            for name, kinds in saved["truth"].items():
                assert torch.equal(found[name], kinds[kind]), (folder.name, name, kind)


def test_any_stretch_reads_as_the_whole_does(worlds):
    for folder in list_written(worlds):
        checkpoint = ZeroCheckpoint(folder / "step_00000004")
        for name, shape in checkpoint.shapes.items():
            whole = checkpoint.read(name, "exp_avg")
            for start in range(shape.numel()):
                for stop in range(start + 1, shape.numel() + 1):
                    assert torch.equal(checkpoint.read(name, "exp_avg", start, stop), whole[start:stop])


def test_deepspeeds_own_tool_reads_them(worlds):
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    for folder in list_written(worlds, stages=(1, 2, 3)):
        truth = torch.load(folder / "truth.pt")["truth"]
        found = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag="step_00000004")
        for name, kinds in truth.items():
            assert torch.equal(found[name], kinds["weight"]), (folder.name, name)


def test_deepspeeds_own_tool_cannot_read_what_is_not_sharded(worlds):
    """As docs/checkpoints.md says; our reader does (above, as all stages)."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    for folder in list_written(worlds, stages=(0,)):
        with pytest.raises(TypeError, match="NoneType"):
            get_fp32_state_dict_from_zero_checkpoint(str(folder), tag="step_00000004")


def test_a_missing_shard_is_named(worlds, tmp_path):
    source = worlds / "z1_n4" / "step_00000004"
    for path in source.iterdir():
        if "zero_pp_rank_2_" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"holds the shards of ranks \[0, 1, 3\], so some are missing"):
        ZeroCheckpoint(tmp_path)
