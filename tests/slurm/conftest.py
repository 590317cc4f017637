"""A stand-in for the repository in which the trainer is a few lines, and one for SLURM's commands."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.integration.conftest import pretraining, shards  # noqa: F401  fixtures

ROOT = Path(__file__).resolve().parents[2]

FAKES = {
    # Runs the command once, as task 0 of node 0, with its output where --output says.
    "srun": """
        output=/dev/stdout
        while [ "${1#-}" != "$1" ]; do
            case $1 in --output=*) output=${1#--output=} ;; --overlap) overlap=1 ;; esac
            shift
        done
        if [ -n "${overlap:-}" ]; then
            [ -e "$FAKE_LOG.looked" ] || printf '%b' "${FAKE_FIRST_PREFLIGHT:-$FAKE_PREFLIGHT}"
            [ ! -e "$FAKE_LOG.looked" ] || printf '%b' "$FAKE_PREFLIGHT"
            touch "$FAKE_LOG.looked"; exit
        fi
        echo srun "$@" >>"$FAKE_LOG"
        export SLURM_PROCID=0 SLURM_NODEID=0 SLURM_LOCALID=0
        exec "$@" >"${output/\\%t/0}" 2>&1
    """,
    "scontrol": """
        echo scontrol "$@" >>"$FAKE_LOG"
        case $1 in
        show) printf 'node1\\nnode2\\n' ;;
        ping) [ -e "$FAKE_LOG.away" ] && echo 'Slurmctld(primary) at host is DOWN' && rm "$FAKE_LOG.away" && exit 1
            echo 'Slurmctld(primary) at host is UP' ;;
        requeue) [ ! -e "$FAKE_LOG.away" ] || { echo 'Unable to contact slurm controller'; exit 1; }
            [ "$FAKE_REQUEUE" = 1 ] || { echo 'Requested operation is presently disabled'; exit 1; }
            kill -KILL 0 ;; # all of the job's processes, as SLURM does
        esac
    """,
    "squeue": '[ ! -e "$FAKE_LOG.away" ] || exit 1; echo "$FAKE_END"',
    "sbatch": 'echo sbatch "$@" >>"$FAKE_LOG"; echo "Submitted batch job 4711"',
}


@pytest.fixture
def place(tmp_path):
    """A repository whose trainer is the stand-in, and a config; returns their paths."""
    root = tmp_path / "root"
    (root / "launch").mkdir(parents=True)
    (root / "launch/slurm").symlink_to(ROOT / "launch/slurm")
    for stage in ("pretrain", "finetune", "dense"):
        (root / f"launch/{stage}.py").symlink_to(ROOT / "tests/slurm/stand_in.py")
    tars = tmp_path / "shards"
    tars.mkdir()
    (tars / "a-000000.tar").write_bytes(b"")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"run": {"name": "unnamed"}, "data": {"shards": str(tars)}}))
    return SimpleNamespace(root=root, config=config, run=tmp_path / "runs/a", folder=tmp_path)


@pytest.fixture
def fake(place):
    """Environment in which SLURM's commands are scripts that write what they were asked to FAKE_LOG."""
    programs = place.folder / "programs"
    programs.mkdir()
    for name, body in FAKES.items():
        path = programs / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HORNET_ROOT": str(place.root),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS_PER_NODE": "4",
        "RETRY_SECONDS": "0",
        "FAKE_LOG": str(place.folder / "log"),
        "FAKE_PREFLIGHT": "ok node1\\nok node2\\n",
        "FAKE_REQUEUE": "1",
        "FAKE_END": "2030-01-01T00:00:00",
    }


@pytest.fixture
def submit(place, fake):
    """Return a function that runs a job script to its end, `send` telling which signal the job gets while it trains."""

    def run(*overrides, script="pretrain.sbatch", **environment):
        arguments = [place.config, f"run.root={place.run.parent}", f"run.name={place.run.name}", *overrides]
        command = ["bash", str(ROOT / "launch/slurm" / script), *map(str, arguments)]
        return subprocess.Popen(
            command,
            env={**fake, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=place.folder,
            start_new_session=True,
        )

    return run
