"""A throw-away SLURM cluster of two nodes on this machine: Debian's packages, as root, without systemd or cgroups."""

import os
import platform
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from tests.patience import PATIENCE

NODES = ("node1", "node2")

# Short timers, for tests. cred_expire is how long a requeued job waits (SLURM's default is 120 s); with less than
# KillWait an old step may still be ending when its job comes back.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=8
GresTypes=gpu
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=8
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=10
ReturnToService=1
JobRequeue=1
MailProg=/bin/true
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def find_obstacle():
    """Return why there can be no cluster here, None if there can."""
    missing = [program for program in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} here: on Debian, apt-get install munge slurmctld slurmd slurm-client"
    return None if os.geteuid() == 0 else "a SLURM cluster needs root"


def find_free_ports(number):
    """Return so many ports that nobody listens on, so that the tests of two checkouts do not meet."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """The daemons, and the commands users have."""

    def __init__(self, folder):
        """`folder` must not be writable by others, nor its parents unless sticky: munged refuses that."""
        self.folder = Path(folder)
        self._environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self):
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.folder.chmod(0o755)  # munged asks for it
        files = (
            ("socket", "munge.socket"),
            ("pid-file", "munged.pid"),
            ("log-file", "munged.log"),
            ("seed-file", "seed"),
        )
        options = [f"--{option}={self.folder / name}" for option, name in files]
        self._run("munged", f"--key-file={key}", *options)
        host = platform.node().partition(".")[0]
        controller_port, *node_ports = find_free_ports(1 + len(NODES))
        text = CONFIGURATION.format(host=host, port=controller_port, folder=self.folder)
        for node, port in zip(NODES, node_ports, strict=True):
            text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1000000\n"
        (self.folder / "slurm.conf").write_text(text)
        make_names_resolve()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle"] * 2)

    def stop(self):
        for job in self.command("squeue", "-h", "-o", "%A", check=False).split():
            self.command("scancel", job, check=False)
        time.sleep(1)
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munged"):
            self.kill_daemon(name, "-TERM")

    def start_controller(self):
        self._run("slurmctld", "-f", self.folder / "slurm.conf")

    def start_node(self, node):
        self._run("slurmd", "-f", self.folder / "slurm.conf", "-N", node)

    def kill_daemon(self, name, number="-KILL"):
        path = self.folder / f"{name}.pid"
        if path.exists():
            subprocess.run(["kill", number, path.read_text().strip()], check=False, capture_output=True)

    def command(self, *words, check=True, environment=()):
        """Run a command of SLURM's; return its output."""
        return self._run(*words, check=check, environment=environment)

    def describe_job(self, job):
        """Return the fields of `scontrol show job` as a dictionary."""
        text = self.command("scontrol", "--oneliner", "show", "job", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for_state(self, job, *states):
        self.wait_for(lambda: self.describe_job(job)["JobState"] in states, what=lambda: self.describe_job(job))
        return self.describe_job(job)

    def wait_for(self, condition, *, what=lambda: ""):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("slurm*.log"))
                raise TimeoutError(f"waited for {PATIENCE} s: {what()}\n{logs}")
            time.sleep(0.2)

    def _run(self, *words, check=True, environment=()):
        done = subprocess.run(
            list(map(str, words)),
            env={**self._environment, **dict(environment)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,  # a dry run trains
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout


def make_names_resolve():
    """Add the nodes to /etc/hosts, as a real cluster's names resolve."""
    hosts = Path("/etc/hosts")
    missing = [node for node in NODES if node not in hosts.read_text().split()]
    if missing:
        with hosts.open("a") as file:
            file.write("".join(f"127.0.0.1 {node}  # HorNet's test cluster\n" for node in missing))
