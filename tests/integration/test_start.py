"""How ranks are started, and what becomes of a start that fails."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hornet.cli import demo
from tests.integration.conftest import ROOT, Ranks, make_environment, run_python, write_config
from tests.integration.test_finetune import FINETUNE, pretrained  # noqa: F401  a fixture
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


def start(words, **extra):
    """Run a command as a user types it; return it when it has ended."""
    environment = make_environment(PATH=f"{BIN}:{os.environ['PATH']}", **extra)
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=PATIENCE, check=False
    )


def accelerate_launch(*arguments):
    """Run `accelerate launch ...` to its end, the launcher itself forked; what it starts is not."""
    return run_python(BIN / "accelerate", "launch", *arguments, check=False)


def read_num_ranks(run):
    """How many ranks the run itself reports."""
    return json.loads((run / "environment.json").read_text())["world"]["num_ranks"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ranks_say_for_whom_they_wait_and_end_on_a_signal(pretraining, tmp_path, number, code):
    third = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    batch = ("global_batch_size=12", "micro_batch_size=4")
    ranks = Ranks("pretrain.py", "--config", pretraining(), *batch, environments=(third, third))
    said = Path(ranks._outputs.name) / "0"
    deadline = time.monotonic() + 250
    while not re.search(
        r"2 of 3 ranks have come to 127.0.0.1:\d+, missing: rank 2; it gives up after", said.read_text()
    ):
        assert time.monotonic() < deadline, said.read_text()
        assert ranks.processes[0].poll() is None, said.read_text()
        time.sleep(0.1)
    ranks.processes[1].send_signal(number)
    codes, outputs = ranks.wait(60)
    assert codes == [2, code], outputs
    assert f"rank 1: ended by {number.name} after " in outputs[1]
    assert "error: rank 1 left before all ranks had come; its own output says why" in outputs[0]
    assert "Traceback" not in outputs[0] + outputs[1]
    assert not (tmp_path / "runs").exists()


def test_a_port_in_use_ends_in_a_sentence(pretraining):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = {"MASTER_PORT": str(port)}
        ranks = Ranks("pretrain.py", "--config", pretraining(), environments=(taken,))
        ranks.processes[0].communicate(60)
        ranks.processes[1].send_signal(signal.SIGTERM)
        codes, outputs = ranks.wait(60)
    assert codes == [2, 143]
    assert f"error: port {port} of {socket.gethostname()}, where the ranks are to meet, is in use" in outputs[0]
    assert "Traceback" not in outputs[0]


def test_a_network_that_is_not_there_ends_in_a_sentence(pretraining):
    nowhere = {"GLOO_SOCKET_IFNAME": "nowhere0"}
    codes, outputs = Ranks("pretrain.py", "--config", pretraining(), environments=(nowhere, nowhere)).wait(60)
    assert codes == [2, 2], outputs
    assert "cannot talk to each other: " in outputs[0]
    assert "name the network that they share in GLOO_SOCKET_IFNAME" in outputs[0]


def test_a_small_shared_memory_ends_in_a_sentence(pretraining, tmp_path):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a /dev/shm of one's own needs root and unshare")
    changes = {"data__num_workers": 2, "data__transform__image_size": 224, "micro_batch_size": 8}
    words = [sys.executable, "launch/pretrain.py", "--config", pretraining(**changes)]
    small = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {' '.join(map(str, words))}"
    done = start(["unshare", "-m", "bash", "-c", small])
    if "mount" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    # two workers prepare two batches each, and two steps hold one each; 8 x 3 x 224 x 224 bytes a batch
    assert "error: /dev/shm has 1 MB free, and the batches of this node's workers may take 7 MB there: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def finetuning(pretrained, tmp_path, shards):  # noqa: F811
    """Arguments of a short finetuning run, and its folder."""
    config = write_config(tmp_path, FINETUNE, shards=shards, start__from=str(pretrained), evaluation=None)
    return ["launch/finetune.py", "--config", config], tmp_path / "runs/finetune"


def test_the_demos_finetuning_runs_on_as_many_ranks_as_the_demo_says(finetuning):
    words, run = finetuning
    done = start([*demo.ON_TWO_CPUS, *words])
    assert done.returncode == 0, done.stderr
    assert read_num_ranks(run) == demo.NUM_RANKS == 2
    demo.require_ranks(run)

    run_python(*words, "run.name=alone")
    with pytest.raises(SystemExit, match=r"runs/alone ran on 1 ranks, not on 2"):
        demo.require_ranks(run.with_name("alone"))
    header = (ROOT / "configs/demo/finetune.yaml").read_text().splitlines()[1]
    shown = " ".join(str(word).removeprefix(f"{BIN}/") for word in demo.ON_TWO_CPUS)
    assert header == f"#   {shown} launch/finetune.py --config configs/demo/finetune.yaml"


MULTI_CPU = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
use_cpu: true
num_machines: 1
num_processes: 2
mixed_precision: 'no'
"""
DEEPSPEED = MULTI_CPU.replace("MULTI_CPU", "DEEPSPEED").replace("true", "false") + "deepspeed_config: {zero_stage: 2}\n"
FSDP = MULTI_CPU.replace("MULTI_CPU", "FSDP").replace("true", "false") + "fsdp_config: {fsdp_version: 1}\n"


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        (None, ["--cpu", "--num_processes", 2], "accelerate launch starts one process where it finds no GPUs"),
        (MULTI_CPU, [], "accelerate launch starts one process where it finds no GPUs"),
        (DEEPSPEED, [], "Accelerate's config asks for DEEPSPEED, which is not used here"),
        (FSDP, [], "Accelerate's config asks for FSDP, which is not used here"),
    ],
    ids=["--cpu", "MULTI_CPU", "DEEPSPEED", "FSDP"],
)
def test_what_accelerate_launch_does_not_do_is_refused(tmp_path, pretraining, file, options, said):
    """Any stage does: it is refused before anything is read, but for the config."""
    options = ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", *options]
    if file is not None:
        (tmp_path / "accelerate.yaml").write_text(file)
        options = ["--config_file", tmp_path / "accelerate.yaml"]
    done = accelerate_launch(*options, "launch/pretrain.py", "--config", pretraining())
    assert done.returncode != 0
    assert f"environment: {said}" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_accelerate_launch_with_multi_gpu_starts_two_ranks_on_cpus_too(finetuning):
    words, run = finetuning
    options = ["--multi_gpu", "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no"]
    done = accelerate_launch(*options, "--dynamo_backend", "no", "--main_process_port", 0, *words)
    assert done.returncode == 0, done.stderr
    assert read_num_ranks(run) == 2


@pytest.mark.parametrize("launcher", ["mpirun.openmpi", "mpiexec.hydra"])
def test_ranks_that_mpi_starts_are_one_run(pretraining, tmp_path, launcher):
    if shutil.which(launcher) is None:
        pytest.skip(f"no {launcher} here: on Debian, apt-get install openmpi-bin mpich")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "launch/pretrain.py", "--config", pretraining(schedule__num_epochs=1, evaluation=None)]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "MASTER_PORT": str(port)}
    options = ["--oversubscribe"] if launcher == "mpirun.openmpi" else []
    done = start([launcher, *options, "-n", 2, *words], **allowed)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/pretrain"
    assert read_num_ranks(run) == 2
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
