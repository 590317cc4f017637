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


def test_numbers_in_the_environment_are_numbers():
    with pytest.raises(UserError, match="RANK: must be a whole number, not 'x'"):
        read_world({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="MASTER_PORT 99999 is no port"):
        read_world({"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "99999"})


def test_torchrun_listens_for_its_ranks():
    environment = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    world = read_world({**environment, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert (world.has_store, world.num_restarts) == (True, 2)
    assert not read_world({**environment, "TORCHELASTIC_USE_AGENT_STORE": "False"}).has_store


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set to 2, but RANK is not: start the ranks with torchrun"),
        ({"RANK": "1"}, "RANK is set to 1, but WORLD_SIZE is not: start the ranks with torchrun"),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h"},
            "WORLD_SIZE=2 and MASTER_ADDR are set, but not LOCAL_RANK: .*0 and 1 for one process a node",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            "2 of 4 ranks are on this node, and nothing says where rank 0 is: set MASTER_ADDR",
        ),
        ({"PMIX_RANK": "1"}, "PMIX_RANK is set, so an MPI launcher started this process, .*use torchrun, srun or"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_RANK is set, so an MPI launcher started this process"),
    ],
)
def test_what_tells_of_others_but_too_little_is_refused(environment, said):
    with pytest.raises(UserError, match=said):
        read_world(environment)


def test_ranks_started_by_hand_on_one_machine_take_a_gpu_each():
    world = read_world({"RANK": "1", "WORLD_SIZE": "2"})
    assert (world.local_rank, world.num_local_ranks, world.master_address) == (1, 2, "127.0.0.1")


def test_a_world_of_one_by_half_is_alone():
    assert read_world({"WORLD_SIZE": "1"}) == ALONE


# As the launchers of Open MPI 4.1, MPICH 4.0 (hydra; Intel MPI's is one) set them; the others by their manuals.
MPI = {
    "openmpi": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpich": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "mvapich": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
    "pals": ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
}


@pytest.mark.parametrize("launcher", MPI)
def test_mpi_launchers(launcher):
    def started(*numbers):
        return dict(zip(MPI[launcher], map(str, numbers), strict=True))

    assert read_world(started(1, 2, 1, 2)) == World(
        rank=1, num_ranks=2, local_rank=1, num_local_ranks=2, master_address="127.0.0.1", master_port=29500
    )
    with pytest.raises(UserError, match=r"2 of 4 ranks are on this node.*mpirun -x MASTER_ADDR=HOST"):
        read_world(started(3, 4, 1, 2))
    assert read_world({**started(3, 4, 1, 2), "MASTER_ADDR": "h", "MASTER_PORT": "7"}) == World(
        rank=3, num_ranks=4, local_rank=1, num_local_ranks=2, master_address="h", master_port=7
    )
    with pytest.raises(UserError, match="WORLD_SIZE is 8, but the launcher started 2 processes; unset it"):
        read_world({**started(0, 2, 0, 2), "WORLD_SIZE": "8"})
    # mpirun starts its daemons by srun, which leaves its mark on their children
    step = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}
    assert read_world({**step, **started(1, 2, 1, 2)}).num_ranks == 2


# Of a shell that salloc -N1 -n8 opened on a real SLURM (LaunchParameters=use_interactive_step), and of srun --pty bash.
SALLOC = {
    "SLURM_JOB_ID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NPROCS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_PTY_PORT": "39503",
    "SLURM_STEPID": "4294967290",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NODELIST": "node1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_TASKS_PER_NODE": "8",
    "SLURM_TASK_PID": "10730",
}
PTY_OF_EIGHT = {**SALLOC, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "8"}


def without(environment, name):
    return {key: value for key, value in environment.items() if key != name}


@pytest.mark.parametrize("is_terminal", [True, False], ids=["typed", "script"])
@pytest.mark.parametrize(
    "shell",
    [
        SALLOC,
        without(SALLOC, "SLURM_NTASKS"),
        {**SALLOC, "PMIX_RANK": "0"},  # where MpiDefault=pmix
        {**SALLOC, "SLURM_STEP_ID": "0"},  # srun --pty bash
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "node1"},  # a notebook, salloc of old
    ],
    ids=["salloc", "salloc without -n", "salloc with pmix", "srun --pty", "notebook"],
)
def test_shells_of_a_job_are_alone(shell, is_terminal):
    world = read_world(shell, is_terminal=is_terminal)
    assert (world.rank, world.num_ranks, world.local_rank, world.num_local_ranks) == (0, 1, 0, 1)


def test_srun_pty_in_a_job_of_eight_tasks_is_a_shell_unless_it_starts_python_itself():
    assert read_world(PTY_OF_EIGHT, is_terminal=True) == ALONE
    assert read_world(PTY_OF_EIGHT, is_terminal=False).num_ranks == 8
    task = {**PTY_OF_EIGHT, "SLURM_TASK_PID": str(os.getpid())}
    assert read_world(task, is_terminal=True).num_ranks == 8


def test_a_step_says_how_many_it_is_not_the_job():
    step = {**PTY_OF_EIGHT, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    assert read_world(step, is_terminal=False).num_ranks == 2
    with pytest.raises(UserError, match="SLURM_NTASKS is not set, which a launcher sets"):
        read_world(without(without(step, "SLURM_STEP_NUM_TASKS"), "SLURM_NTASKS"), is_terminal=False)
    with pytest.raises(UserError, match="SLURM's tasks per node '2' say nothing of node 1"):
        read_world({**step, "SLURM_NODEID": "1"}, is_terminal=False)


# As accelerate launch --cpu --num_processes 2 and --num_processes 1 leave it to the one process that they start.
ACCELERATE = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}


def test_accelerate_that_starts_one_of_several_is_refused():
    with pytest.raises(UserError, match=r"accelerate launch starts one process .*torchrun --nproc_per_node 2"):
        read_world({**ACCELERATE, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    assert read_world(ACCELERATE) == ALONE
    assert read_world({**ACCELERATE, "MASTER_PORT": "29500", "RANK": "1", "WORLD_SIZE": "2"}).num_ranks == 2


@pytest.mark.parametrize(
    ("name", "plugin"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED"),
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "MEGATRON_LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism_config"),
    ],
)
def test_what_accelerate_would_do_and_is_not_done_is_refused(name, plugin):
    environment = {"RANK": "0", "WORLD_SIZE": "2"}
    with pytest.raises(UserError, match=f"Accelerate's config asks for {plugin}, which is not used here"):
        read_world({**environment, name: "true"})
    assert read_world({**environment, name: "false"}).num_ranks == 2
