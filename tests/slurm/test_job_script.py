"""What launch/slurm/job.sh decides, with stand-ins for SLURM and the trainer."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.patience import PATIENCE
from tests.slurm.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
KILLED = -signal.SIGKILL


def finish(process):
    output = process.communicate(timeout=PATIENCE)[0]
    return process.returncode, output


def read_log(place):
    return (place.folder / "log").read_text()


def read_latest(place):
    return (place.run / "checkpoints/latest").read_text()


def send_while_training(process, number, place):
    """Send a signal to the batch shell alone, once the trainer is at work."""
    deadline = time.monotonic() + 30
    while not (place.run / "status.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "dense"])
def test_a_run_that_finishes_ends_the_job_well_and_a_finished_run_is_not_started(submit, place, stage):
    code, output = finish(submit(script=f"{stage}.sbatch"))
    assert code == 0, output
    assert "status finished, checkpoint of step 0 -> 5" in output
    assert f"{stage} in {place.run} from step 0" in output
    assert f"/launch/{stage}.py --config" in read_log(place)
    code, output = finish(submit(script=f"{stage}.sbatch"))
    assert (code, "is finished" in output) == (0, True)
    assert read_log(place).count("srun ") == 1


def test_the_trainer_gets_its_config_a_deadline_and_one_task_a_gpu(submit, place):
    finish(submit("schedule.num_epochs=3"))
    words = (place.run / "logs/42.0.0-0.log").read_text().split()
    assert words[1:3] == ["--config", str(place.config)]
    assert "schedule.num_epochs=3" in words
    (deadline,) = [word for word in words if word.startswith("run.stop_at=")]
    limit = subprocess.run(["date", "-d", "2030-01-01T00:00:00", "+%s"], capture_output=True, text=True, check=True)
    assert int(deadline.removeprefix("run.stop_at=")) == int(limit.stdout) - 60


def test_without_an_answer_of_slurm_there_is_no_deadline(submit, place):
    """`date` makes the last midnight of nothing, and the run would stop before its first step."""
    code, output = finish(submit(FAKE_END=""))
    assert code == 0, output
    assert "run.stop_at=" not in (place.run / "logs/42.0.0-0.log").read_text()
    assert "until stopped" in output


def test_a_run_that_was_killed_between_its_summary_and_its_status_is_finished(submit, place):
    code, output = finish(submit("mode=killed_at_the_end"))
    assert code == 0, output
    assert read_log(place).count("srun ") == 1
    code, output = finish(submit())
    assert (code, "is finished" in output) == (0, True)


def test_a_finished_run_whose_summary_was_moved_away_goes_on(submit, place):
    """The trainer says so, where it is to go back and leave out batches."""
    finish(submit())
    (place.run / "summary.json").unlink()
    code, output = finish(submit("steps=7"))
    assert (code, "checkpoint of step 5 -> 7" in output) == (0, True), output


def test_tries_are_counted_where_the_disk_takes_nothing(submit, place):
    (place.run / "logs/tries").mkdir(parents=True)  # cannot be written, as on a full disk
    process = submit("mode=crash")
    lines = []
    while len(lines) < 100 and (line := process.stdout.readline()):
        lines.append(line)
    process.kill()
    output = "".join(lines)
    assert "no progress in 3 tries: given up" in output, output


def test_usr1_stops_the_trainer_and_requeues(submit, place):
    process = submit("steps=1000")
    send_while_training(process, signal.SIGUSR1, place)
    code, output = finish(process)
    assert code == KILLED, "the stand-in for scontrol kills the job, as SLURM does"
    assert "status stopped (SIGUSR1)" in output
    assert "scontrol requeue 42" in read_log(place)


def test_a_trainer_that_does_not_stop_in_time_is_requeued_before_the_limit_but_not_without_end(submit, place):
    """The limit itself would end the job, which nobody would start again."""
    for number in (1, 2, 3):
        process = submit("steps=500", "mode=deaf", FAKE_END="2020-01-01T00:00:00")
        send_while_training(process, signal.SIGUSR1, place)
        code, output = finish(process)
        assert f"the trainer has not stopped in time, {number} of 3 tries without progress" in output
        assert code == (KILLED if number < 3 else 0), output
        (place.run / "status.json").unlink()
    assert read_log(place).count("scontrol requeue 42") == 2


def test_a_controller_that_is_away_at_the_warning_is_asked_before_the_limit(submit, place):
    process = submit("steps=500", "mode=deaf", FAKE_END="2020-01-01T00:00:00")
    send_while_training(process, signal.SIGCONT, place)
    (place.folder / "log.away").touch()
    process.send_signal(signal.SIGUSR1)
    threading.Timer(3, (place.folder / "log.away").unlink).start()
    code, output = finish(process)
    assert code == KILLED, output
    assert "Unable to contact slurm controller" in output
    assert read_log(place).count("scontrol requeue 42") > 1


def test_term_is_not_requeued(submit, place):
    process = submit("steps=100")
    send_while_training(process, signal.SIGTERM, place)
    (place.run / "status.json").write_text('{"state": "stopped", "reason": "SIGTERM"}')
    subprocess.run(["pkill", "-TERM", "-s", str(process.pid)], check=False)  # slurmd tells the tasks itself
    code, output = finish(process)
    assert code == 143, output
    assert "not requeued" in output
    assert "scontrol requeue" not in read_log(place)


def test_a_crash_without_progress_is_tried_three_times_on_three_ports_then_given_up(submit, place):
    code, output = finish(submit("mode=crash"))
    assert code == 1
    assert "no progress in 3 tries: given up" in output
    assert "the stand-in crashes" in output
    ports = {(place.run / f"logs/42.0.{number}-0.log").read_text().split("port ")[1].split()[0] for number in range(3)}
    assert len(ports) == 3
    assert all(20000 <= int(port) < 32768 for port in ports)
    assert finish(submit())[0] == 0, "whoever submits again has three tries again"


def test_a_crash_after_progress_is_forgiven(submit, place):
    code, output = finish(submit("mode=crash_once", MAX_TRIES="1"))
    assert code == 0, output
    assert "a failure, 0 of 1 without progress: again in this allocation" in output


def test_before_the_third_try_a_run_with_a_checkpoint_waits_long_but_not_for_a_signal(submit, place):
    (place.run / "checkpoints").mkdir(parents=True)
    (place.run / "checkpoints/latest").write_text("step_00000002")
    process = submit("mode=crash", RETRY_SECONDS="1000", MAX_TRIES="4")
    read_until(process, "a failure, 1 of 4 without progress: again in this allocation in 1000 s")
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[0] == KILLED, "requeued"
    process = submit("mode=crash", RETRY_SECONDS="1000", MAX_TRIES="4")
    read_until(process, "a failure, 2 of 4 without progress: again in this allocation in 120000 s")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143


def read_until(process, text):
    lines = []
    while not lines or text not in lines[-1]:
        line = process.stdout.readline()
        assert line, lines
        lines.append(line)


def test_attempts_without_progress_are_counted_over_requeues(submit, place):
    outputs = []
    for attempt in range(3):
        process = submit(
            "steps=1000", "mode=crash", SLURM_RESTART_COUNT=str(attempt), MAX_TRIES="3", RETRY_SECONDS="60"
        )
        while "without progress" not in (line := process.stdout.readline()) and line:
            outputs.append(line)
        outputs.append(line)
        process.kill()
        process.wait()
        if "given up" in "".join(outputs):
            break
    assert "no progress in 3 tries: given up" in "".join(outputs)


def test_a_stop_file_ends_the_job_without_requeue_and_keeps_the_next_from_starting(submit, place):
    process = submit("steps=1000")
    send_while_training(process, signal.SIGCONT, place)
    (place.run / "STOP").touch()
    code, output = finish(process)
    assert code == 0
    assert f"remove {place.run}/STOP" in output
    code, output = finish(submit())
    assert (code, f"{place.run}/STOP is there: not started" in output) == (0, True)
    assert "scontrol requeue" not in read_log(place)


@pytest.mark.parametrize(("array", "code"), [({"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2"}, 0), ({}, 1)])
def test_without_the_right_to_requeue_an_array_goes_on_with_its_next_element(submit, place, array, code):
    process = submit("steps=1000", FAKE_REQUEUE="0", **array)
    send_while_training(process, signal.SIGUSR1, place)
    found, output = finish(process)
    assert found == code
    assert ("the array's next element goes on" if array else "submit again, or as a chain") in output
    assert f"scontrol requeue {'40_2' if array else '42'}" in read_log(place)


def test_a_controller_that_is_away_is_asked_again(submit, place):
    process = submit("steps=1000")
    send_while_training(process, signal.SIGCONT, place)
    (place.folder / "log.away").touch()
    process.send_signal(signal.SIGUSR1)
    code, output = finish(process)
    assert code == KILLED, output
    assert "Unable to contact slurm controller" in output
    assert read_log(place).count("scontrol requeue 42") == 2


def test_a_node_that_is_well_at_the_second_look_trains(submit, place):
    code, output = finish(submit(FAKE_FIRST_PREFLIGHT="ok node1\\nbad node2: GPU 0 has 70000 MiB in use\\n"))
    assert code == 0, output
    assert "preflight: node2: GPU 0 has 70000 MiB in use" in output
    assert "preflight: 2 nodes ok" in output


def test_a_bad_node_is_named_and_nothing_is_started(submit, place):
    code, output = finish(submit(FAKE_PREFLIGHT="ok node1\\nbad node2: 7 GPUs, 8 needed\\n"))
    assert code == 1
    assert "preflight: node2: 7 GPUs, 8 needed" in output
    assert "submit again with --exclude=node2" in output
    assert "node2: 7 GPUs, 8 needed" in (place.run / "bad_nodes").read_text()
    assert "srun " not in read_log(place)
    code, output = finish(submit(FAKE_PREFLIGHT="ok node2\\n"))
    assert "preflight: node1: did not answer" in output


def test_a_status_of_the_last_attempt_does_not_hide_a_crash(submit, place):
    place.run.mkdir(parents=True)
    (place.run / "status.json").write_text('{"state": "stopped", "reason": "SIGUSR1"}')
    code, output = finish(submit("mode=crash", MAX_TRIES="1"))
    assert (code, "status starting" in output) == (1, True)
    assert "scontrol requeue" not in read_log(place)


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ("torchrun", ["torch.distributed.run --nnodes 2 --nproc-per-node 4 --node-rank @NODE@", "--master-addr node1"]),
        ("deepspeed", ["deepspeed.launcher.runner --no_ssh --node_rank @NODE@", "--master_addr node1"]),
    ],
)
def test_other_launchers_get_one_task_a_node(submit, place, launcher, words):
    python = place.folder / "python"
    python.write_text(f'#!/bin/sh\ncase $2 in -m) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    finish(submit(LAUNCHER=launcher, RANKS_PER_NODE="4", MAX_TRIES="1", PYTHON=str(python)))
    log = read_log(place)
    for word in words:
        assert word in log
    if launcher == "deepspeed":
        assert (place.run / "logs/hostfile").read_text() == "node1 slots=4\nnode2 slots=4\n"


def test_an_unknown_launcher_or_key_is_refused(submit):
    code, output = finish(submit(LAUNCHER="mpirun"))
    assert (code, "LAUNCHER=mpirun is unknown; choose srun, torchrun or deepspeed" in output) == (2, True)
    code, output = finish(submit("nonsense"))
    assert (code, "nonsense" in output) == (2, True)


def test_a_study_takes_its_line(fake, place):
    runs = place.folder / "study.txt"
    line = f"pretrain {place.config} run.root={place.run.parent}"
    runs.write_text(f"# the study\n{line} run.name=one\n\n{line} run.name=two\n")
    command = ["bash", str(ROOT / "launch/slurm/study.sbatch"), str(runs)]
    for element, code in ((2, 0), (3, 2)):
        environment = {**fake, "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": str(element)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout
    assert "has no run number 3; lower --array" in done.stderr
    assert [path.name for path in place.run.parent.iterdir()] == ["two"]


def submit_command(fake, *arguments, check=0):
    command = [ROOT / "launch/slurm/submit.sh", *map(str, arguments)]
    done = subprocess.run(command, env=fake, capture_output=True, text=True, check=False)
    assert done.returncode == check, done.stdout + done.stderr
    return done


def test_submitting(fake, place):
    done = submit_command(fake, "--nodes=4", "--after", 7, "finetune", place.config, "run.name=fine")
    assert "Submitted batch job 4711" in done.stdout
    assert "runs/fine (logs in runs/fine/logs)" in done.stdout
    log = read_log(place)
    assert "sbatch --nodes=4 --dependency=afterok:7 --kill-on-invalid-dep=yes" in log
    assert log.rstrip().endswith(f"finetune.sbatch {place.config} run.name=fine")
    submit_command(fake, "dense", place.config)
    assert f"launch/slurm/dense.sbatch {place.config}" in read_log(place)
    submit_command(fake, "--chain", 5, "pretrain", place.config)
    assert "sbatch --array=1-5%1 --no-requeue" in read_log(place)


def test_sbatch_without_a_cluster_is_one_sentence_first(fake, place):
    sbatch = place.folder / "programs/sbatch"
    said = "sbatch: fatal: Could not establish a configuration source"
    sbatch.write_text(f"#!/usr/bin/env bash\necho '{said}' >&2; exit 1\n")
    done = submit_command(fake, "pretrain", place.config, check=1)
    first, second = done.stderr.splitlines()
    assert first.startswith("submit.sh: no SLURM cluster is set up on this machine; ")
    assert second == said
    assert "run directory" not in done.stdout


@pytest.mark.parametrize(
    ("failing", "verdict"),
    [
        ("none", "yes: the same command without --dry-run submits it"),
        ("plan.py", 'no: see above, "the plan"'),
        ("rehearse.py", 'no: see above, "the rehearsal"'),
        ("sbatch", 'no: see above, "would SLURM take it?"'),
    ],
)
def test_a_dry_run_asks_all_for_the_jobs_size_and_submits_nothing(fake, place, failing, verdict):
    python = place.folder / "programs/python"
    python.write_text(
        "#!/usr/bin/env bash\ncase $1 in *describe.py) exec " + sys.executable + ' "$@" ;; esac\n'
        'echo "${1##*/}" "${@:2}" >>"$FAKE_LOG"; [ "${1##*/}" != "$FAILING" ]\n'
    )
    python.chmod(0o755)
    sbatch = place.folder / "programs/sbatch"
    sbatch.write_text('#!/usr/bin/env bash\necho sbatch "$@" >>"$FAKE_LOG"; [ "$FAILING" != sbatch ]\n')
    environment = {**fake, "PYTHON": str(python), "FAILING": failing}
    arguments = ["--dry-run", "--nodes=4", "--time=12:00:00", "pretrain", place.config, "run.name=fine"]
    done = submit_command(environment, *arguments, check=int(failing != "none"))
    assert done.stdout.rstrip().splitlines()[-1].rstrip() == verdict
    tests, plan, rehearsal = read_log(place).splitlines()
    assert tests.startswith("sbatch --test-only --nodes=4 --time=12:00:00 ")
    assert plan == f"plan.py --config {place.config} run.name=fine --gpus 32 --time-limit 12:00:00 --signal-lead 300"
    assert rehearsal == f"rehearse.py --config {place.config} run.name=fine --ranks 32"
    (place.folder / "log").unlink()
    submit_command({**environment, "GPU": "h200"}, "--signal=USR1", *arguments, check=int(failing != "none"))
    assert read_log(place).splitlines()[1].endswith("--time-limit 12:00:00 --signal-lead 60 --gpu h200")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "nowhere.yaml"], "nowhere.yaml: no such config; see configs/pretrain/"),
        (["evaluate", "CONFIG"], "evaluate is no stage; choose pretrain, finetune or dense"),
        (["-N", "4", "pretrain", "CONFIG"], "-N is unknown; sbatch's own options are given as --name=value"),
        (["--dry-run", "dense", "CONFIG"], "--dry-run: dense has no plan and no rehearsal; --test asks SLURM alone"),
        (["--dry-run", "--nodes=2-4", "pretrain", "CONFIG"], "--nodes=2-4: the dry run needs one number"),
        (["--dry-run", "--ntasks-per-node=a[$(id)]", "pretrain", "CONFIG"], "the dry run needs one number"),
    ],
)
def test_submitting_nonsense_is_refused(fake, place, arguments, message):
    words = [str(place.config) if word == "CONFIG" else word for word in arguments]
    assert message in submit_command(fake, *words, check=2).stderr


def run_preflight(*arguments):
    command = [sys.executable, ROOT / "launch/slurm/preflight.py", "--node", "n", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_preflight_names_what_is_wrong_with_a_node(place, tmp_path):
    (tmp_path / "file").write_text("")
    shards = place.folder / "shards"
    assert run_preflight("--run-path", place.run, "--shards", shards, "--now", time.time()) == "ok n"
    found = run_preflight(
        "--run-path", tmp_path / "file/run", "--shards", tmp_path / "none", "--now", time.time() + 500
    )
    assert found.startswith("bad n: the clock is -")
    assert f"{tmp_path}/none is not readable" in found
    assert f"{tmp_path}/file/run cannot be written (Not a directory)" in found
    assert "has python=" in run_preflight("--versions", "python=2.7")
    assert run_preflight("--shards", "https://somewhere/else") == "ok n"


def test_a_slow_start_is_no_wrong_clock():
    assert run_preflight("--now", time.time() - 100) == "ok n"
    assert "the clock is +" in run_preflight("--now", time.time() - 1000)


def test_preflight_looks_for_tars_that_a_pattern_names(tmp_path):
    for name in ("a-00.tar", "a-01.tar"):
        (tmp_path / name).write_bytes(b"")
    assert run_preflight("--shards", f"{tmp_path}/a-{{00..01}}.tar") == "ok n"
    assert run_preflight("--shards", f"{tmp_path}/a-*.tar") == "ok n"
    assert run_preflight("--shards", f"{tmp_path}/a-{{00..02}}.tar") == f"bad n: {tmp_path}/a-02.tar is not readable"
    assert "b-*.tar: names no tar that is there" in run_preflight("--shards", f"{tmp_path}/b-*.tar")


def test_preflight_counts_gpus_and_what_is_left_in_them(tmp_path, monkeypatch):
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\nprintf '3, 81559\\n70000, 81559\\n'\n")
    nvidia_smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run_preflight("--gpus", 1) == "ok n"
    assert run_preflight("--gpus", 3) == "bad n: 2 GPUs, 3 needed; GPU 1 has 70000 MiB in use"


def test_the_status_that_is_read_is_what_the_trainer_writes(tmp_path, alone_run):
    """The library reads `state` and `reason`; RunDirectory writes them."""
    alone_run.write_status("stopped", step=3, reason="SIGUSR1")
    status = json.loads((alone_run.path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("stopped", "SIGUSR1")


@pytest.fixture
def alone_run(tmp_path):
    from hornet.runs.directory import RunConfig, RunDirectory
    from hornet.world import ALONE

    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=ALONE)
    run.path.mkdir()
    return run
