import os

import pytest

from hornet.errors import UserError
from hornet.world import ALONE, World, first_host, publish_world, read_world, tasks_on_node


def test_alone_without_a_launcher():
    assert read_world({}) == ALONE


def test_an_sbatch_script_itself_is_alone():
    assert read_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}) == ALONE


@pytest.mark.parametrize("local_size_name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_launchers(local_size_name):
    environment = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        local_size_name: "4",
        "MASTER_ADDR": "h",
        "MASTER_PORT": "9",
    }
    assert read_world(environment) == World(
        rank=5, num_ranks=8, local_rank=1, num_local_ranks=4, master_address="h", master_port=9
    )


def test_srun_step():
    environment = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "6",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4,2",
        "SLURM_STEP_NODELIST": "gpu[03-04]",
        "SLURM_JOB_ID": "24001",
    }
    assert read_world(environment) == World(
        rank=5, num_ranks=6, local_rank=1, num_local_ranks=2, master_address="gpu03", master_port=20001
    )


def test_a_launcher_inside_a_step_wins():
    environment = {"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}
    assert read_world(environment).num_ranks == 2


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu[03-05,7],x1", "gpu03"),
        ("a,b", "a"),
        ("n7", "n7"),
        ("rack-1-n[2]", "rack-1-n2"),
        ("r[1-2]n[03-04],x", "r1n03"),
        ("a[1-2]-gpu", "a1-gpu"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(("text", "counts"), [("8(x2)", [8, 8]), ("2(x3),1", [2, 2, 2, 1]), ("4", [4])])
def test_tasks_on_node(text, counts):
    assert [tasks_on_node(text, node=node) for node in range(len(counts))] == counts


def test_published_world_reads_back(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    world = World(rank=3, num_ranks=8, local_rank=1, num_local_ranks=2, master_address="h", master_port=5)
    publish_world(world)
    assert read_world(os.environ) == world


def test_impossible_ranks_are_refused():
    with pytest.raises(UserError, match="rank 4 is outside a world of 4 ranks"):
        World(rank=4, num_ranks=4, local_rank=0, num_local_ranks=1, master_address="", master_port=0)
