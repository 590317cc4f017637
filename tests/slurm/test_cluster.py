"""Jobs and their restarts on a real SLURM controller with two nodes, all on this machine."""

import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress

import psutil
import pytest

from hornet.config import load_config
from hornet.data.loader import open_train_stream
from hornet.digest import batch_digest
from hornet.training.metrics import sum_key_hashes
from hornet.world import ALONE
from pretrain.config import PretrainConfig
from tests.integration.conftest import ROOT, make_environment, read_last_step, read_rows, write_config
from tests.integration.test_finetune import FINETUNE
from tests.slurm.cluster import Cluster, find_obstacle
from tests.unit.scaling.studies import GRID, TUNED, write_study

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SMALL = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--oversubscribe", "--time=10")


@pytest.fixture(scope="module")
def cluster():
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    folder = tempfile.mkdtemp(prefix="slurm-")
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def submit(cluster, tmp_path):
    """Return a function that submits with launch/slurm/submit.sh, and returns the job's number."""

    def run(*arguments, options=(), root=ROOT, **environment):
        command = [root / "launch/slurm/submit.sh", *SMALL, f"--output={tmp_path}/%x-%j.out", *options, *arguments]
        environment = {**make_environment(), "PYTHON": sys.executable, "RETRY_SECONDS": "1", **environment}
        return cluster.command(*command, environment=environment).split("batch job ")[1].split()[0]

    return run


def read_output(tmp_path):
    return "\n".join(path.read_text() for path in sorted(tmp_path.glob("*.out")))


def count_expected_digests(path, num_steps):
    """What the steps of an undisturbed run see, from the stream alone."""
    config = load_config(PretrainConfig, path=path)
    stream = open_train_stream(
        config.data, world=ALONE, seed=config.run.seed, global_batch_size=8, micro_batch_size=config.micro_batch_size
    )
    batches = stream.iterate(0, num_steps)
    return [
        batch_digest(sum_key_hashes([next(batches) for _ in range(stream.num_micro_steps)])) for _ in range(num_steps)
    ]


def test_time_limit_preemption_and_node_failure_are_attempts_of_one_run(cluster, submit, pretraining, tmp_path):
    config = pretraining(schedule__num_epochs=100_000, evaluation=None, cadence__save_every_steps=50)
    run = tmp_path / "runs/pretrain"
    job = submit("pretrain", config, options=("--signal=B:USR1@30",))
    ends = []

    def live(*, restarts):
        """Wait until the job is in its attempt number `restarts` and has done some steps there."""
        cluster.wait_for(lambda: int(cluster.describe_job(job)["Restarts"]) == restarts, what=lambda: "restart")
        cluster.wait_for_state(job, "RUNNING")
        first = ends[-1] if ends else 0
        cluster.wait_for(lambda: read_last_step(run) >= first + 5, what=lambda: read_output(tmp_path))

    def requeued(restarts):
        cluster.wait_for(
            lambda: int(cluster.describe_job(job)["Restarts"]) == restarts, what=lambda: read_output(tmp_path)
        )
        ends.append(read_last_step(run))

    live(restarts=0)
    # Whole minutes; the signal comes 30 s before their end, which must not be over yet.
    _, minutes, seconds = map(int, cluster.describe_job(job)["RunTime"].split(":"))
    cluster.command("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + (seconds + 35) // 60 + 1}")
    requeued(1)
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    live(restarts=1)

    urgent = cluster.command(
        "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"
    )
    requeued(2)
    cluster.wait_for_state(urgent.split()[-1], "COMPLETED")
    live(restarts=2)

    cluster.kill_daemon("slurmd.node2")
    requeued(3)
    cluster.start_node("node2")
    live(restarts=3)

    (run / "STOP").touch()
    assert cluster.wait_for_state(job, "COMPLETED", "FAILED")["ExitCode"] == "0:0", read_output(tmp_path)
    rows = read_rows(run)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["batch_digest"] for row in rows] == count_expected_digests(config, len(rows))
    attempts = [event for event in read_rows(run, "events") if event["event"] == "starting"]
    assert len(attempts) == 4
    assert [attempt["lost_steps"] for attempt in attempts[:3]] == [0, 0, 0], "who is told in time loses nothing"
    output = read_output(tmp_path)
    assert output.count("status stopped (SIGUSR1)") >= 2
    assert "preflight: 2 nodes ok" in output


def test_finetuning_waits_for_its_pretraining_under_other_launchers(cluster, submit, pretraining, shards, tmp_path):
    pretrained = submit("pretrain", pretraining(schedule__num_epochs=1), LAUNCHER="deepspeed", RANKS_PER_NODE="1")
    (tmp_path / "fine").mkdir()
    config = write_config(tmp_path / "fine", FINETUNE, shards=shards)
    arguments = ("finetune", config, f"run.root={tmp_path}/runs", f"start.from={tmp_path}/runs/pretrain")
    finetuned = submit(*arguments, options=("--after", pretrained), LAUNCHER="torchrun", RANKS_PER_NODE="1")
    cluster.wait_for(lambda: cluster.describe_job(finetuned)["Reason"] == "Dependency")
    for job in (pretrained, finetuned):
        assert cluster.wait_for_state(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", read_output(tmp_path)
    for name in ("pretrain", "finetune"):
        assert (tmp_path / "runs" / name / "summary.json").exists()


def test_a_study_is_job_arrays_its_finetunings_behind_their_parents(cluster, tmp_path):
    grid = GRID | {"families": ["gf"], "sizes": ["atto"], "fractions": [1.0], "seeds": [0], "epochs": [1]}
    path = write_study(tmp_path, groups={"grid": grid, "tuned": TUNED | {"epochs": [1]}})
    options = [f"--sbatch={option}" for option in (*SMALL, "--nodes=1", f"--output={tmp_path}/%x-%A_%a.out")]
    environment = {**make_environment(), "PYTHON": sys.executable, "RETRY_SECONDS": "1", "RANKS_PER_NODE": "1"}

    def call(command, *words):
        script = (sys.executable, ROOT / "launch/scaling.py", command, "--config", path)
        return cluster.command(*script, *words, environment=environment)

    def list_jobs():
        return sorted(set(cluster.command("squeue", "-h", "--states=all", "--name=study", "-o", "%A").split()), key=int)

    call("run", "--slurm", *options)
    parent, tuned = list_jobs()
    cluster.wait_for(lambda: cluster.describe_job(tuned)["Reason"] == "Dependency")
    call("run", "--slurm", *options)
    assert list_jobs() == [parent, tuned], "nothing twice that is in the queue"
    for job in (parent, tuned):
        assert cluster.wait_for_state(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED", read_output(tmp_path)
    assert "2 finished" in call("status")


def start_stand_in(submit, place, *overrides, options=()):
    where = (f"run.root={place.run.parent}", f"run.name={place.run.name}")
    return submit("pretrain", place.config, *where, *overrides, options=options, root=place.root)


def test_a_crash_at_the_start_gives_up_and_what_waits_for_it_is_cancelled(cluster, submit, place, tmp_path):
    job = start_stand_in(submit, place, "mode=crash")
    waiting = start_stand_in(submit, place, options=("--after", job))
    assert cluster.wait_for_state(job, "FAILED", "COMPLETED")["JobState"] == "FAILED"
    assert "no progress in 3 tries: given up" in read_output(tmp_path)
    assert cluster.wait_for_state(waiting, "CANCELLED")["Reason"] == "DependencyNeverSatisfied"


def test_scancel_really_stops_a_job_and_leaves_a_checkpoint(cluster, submit, place, tmp_path):
    job = start_stand_in(submit, place, "steps=100000")
    cluster.wait_for(lambda: (place.run / "status.json").exists(), what=lambda: read_output(tmp_path))
    cluster.command("scancel", job)
    cluster.wait_for_state(job, "CANCELLED")
    cluster.wait_for(lambda: (place.run / "checkpoints/latest").exists())
    time.sleep(12)  # longer than a requeued job waits
    assert cluster.describe_job(job)["JobState"] == "CANCELLED"
    assert cluster.describe_job(job)["Restarts"] == "0"


def test_a_trainer_that_hears_nothing_is_requeued_before_the_limit_ends_its_job(cluster, submit, place, tmp_path):
    job = start_stand_in(submit, place, "steps=100000", "mode=deaf", options=("--time=1", "--signal=B:USR1@30"))
    # SLURM may warn up to a minute early, before srun can hear it: the first attempt is then requeued as one that ended
    said = re.compile(r"has not stopped in time, [12] of 3 tries without progress.*DUE TO JOB REQUEUE", re.S)
    cluster.wait_for(lambda: said.search(read_output(tmp_path)), what=lambda: read_output(tmp_path))
    cluster.command("scancel", job)
    cluster.wait_for_state(job, "CANCELLED")


def test_a_controller_that_is_away_when_the_job_stops_requeues_it_when_it_is_back(cluster, submit, place, tmp_path):
    job = start_stand_in(submit, place, "steps=100000")
    cluster.wait_for(lambda: (place.run / "status.json").exists(), what=lambda: read_output(tmp_path))
    cluster.kill_daemon("slurmctld", "-TERM")
    cluster.wait_for(lambda: "DOWN" in cluster.command("scontrol", "ping", check=False))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "slurm_script" in " ".join(process.cmdline()) and process.environ().get("SLURM_JOB_ID") == job:
                process.send_signal(signal.SIGUSR1)
    # Then scontrol says, line by line, that it cannot (22.05: "Unexpected message received").
    cluster.wait_for(
        lambda: len(read_output(tmp_path).partition("status stopped")[2].splitlines()) > 2,
        what=lambda: read_output(tmp_path),
    )
    cluster.start_controller()
    cluster.wait_for(lambda: cluster.describe_job(job)["Restarts"] == "1", what=lambda: read_output(tmp_path))
    assert "no right to requeue" not in read_output(tmp_path)
    cluster.command("scancel", job)
    cluster.wait_for_state(job, "CANCELLED")


def test_a_chain_of_jobs_goes_on_where_nothing_may_be_requeued(cluster, submit, place, tmp_path):
    job = start_stand_in(submit, place, "steps=60", "seconds=0.1", options=("--chain", "3"))
    cluster.wait_for(lambda: (place.run / "status.json").exists(), what=lambda: read_output(tmp_path))
    time.sleep(1)
    running = cluster.command("squeue", "--noheader", "--job", job, "--states=RUNNING", "--format=%A")
    # its exit status is not 0 (22.05) though the signal is sent
    cluster.command("scancel", "--batch", "--signal=USR1", running.strip(), check=False)
    cluster.wait_for(lambda: "is finished" in read_output(tmp_path), what=lambda: read_output(tmp_path))
    output = read_output(tmp_path)
    assert "the array's next element goes on" in output
    assert "status finished" in output


def test_what_is_typed_in_the_shell_of_salloc_is_one_process(cluster):
    """The shell of salloc here, the one that it may open on a node; ranks are started by srun alone."""
    print_world = "from hornet.world import read_world; w = read_world(); print(w.rank, w.num_ranks, flush=True)"
    python = f"{sys.executable} -c '{print_world}'"
    typed = [python, f"srun --interactive --preserve-env --nodes=1 --ntasks=1 {python}", f"srun {python}"]
    command = ["salloc", "--quiet", *SMALL, "bash", "-ec", "; echo then; ".join(typed)]
    output = cluster.command(*command, environment=make_environment())
    assert [sorted(part.split("\n")) for part in output.strip().split("\nthen\n")] == [["0 1"], ["0 1"], ["0 2", "1 2"]]


def test_a_dry_run_says_yes_and_leaves_nothing(cluster, pretraining, tmp_path):
    config = pretraining(schedule__num_epochs=0.5)  # 3 steps: the rehearsal itself must not come to its end
    command = [ROOT / "launch/slurm/submit.sh", *SMALL, "--dry-run", "pretrain", config]
    output = cluster.command(*command, environment={**make_environment(), "PYTHON": sys.executable})
    for word in ("to start at", "2 ranks x 2 micro steps x 2 images = 8", "two steps", "SIGUSR1", "went on with step"):
        assert word in output
    assert output.rstrip().endswith("yes: the same command without --dry-run submits it")
    assert not list((tmp_path / "runs").iterdir())
