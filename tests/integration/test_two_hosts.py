"""One rank on each of two hosts with addresses of their own: network namespaces joined by a cable that can be cut."""

import os
import shutil
import subprocess
import time

import pytest

from tests.integration.conftest import Ranks, launch, read_last_step, read_rows, wait_until

pytestmark = pytest.mark.slow

ADDRESSES = ("10.213.77.1", "10.213.77.2")


def run_ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces, each with one interface, eth0."""
    names = [f"hornet-{os.getpid()}-{number}" for number in (0, 1)]
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    try:
        for name in names:
            run_ip("netns", "add", name)
        run_ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
    except subprocess.CalledProcessError as error:
        delete(names)
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    for name, address in zip(names, ADDRESSES, strict=True):
        run_ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            run_ip("-n", name, "link", "set", interface, "up")
    yield names
    delete(names)


def delete(names):
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def start(hosts, config, *overrides):
    """Start one rank on each host."""
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": "eth0"}
    arguments = ("pretrain.py", "--config", config, *overrides)
    there = [{**alone, "NETNS": name} for name in hosts]
    return Ranks(*arguments, patch="tests.integration.other_host", environments=there)


def read_course(run):
    return [(row["step"], row["loss"], row["batch_digest"]) for row in read_rows(run)]


def test_a_host_that_is_cut_off_ends_the_run_in_bounded_time_and_it_resumes(pretraining, tmp_path, hosts):
    config = pretraining(cadence__save_every_steps=3)
    launch("pretrain.py", "--config", config, "run.name=undisturbed")
    run = tmp_path / "runs/cut"
    ranks = start(hosts, config, "run.name=cut", "run.stall_seconds=12")
    wait_until(lambda: read_last_step(run) >= 5, ranks)
    run_ip("-n", hosts[1], "link", "set", "eth0", "down")
    cut = time.monotonic()
    codes, outputs = ranks.wait()
    assert time.monotonic() - cut < 60
    assert 0 not in codes, outputs
    assert codes[0] == 70, outputs[0]
    assert not (run / "summary.json").exists()

    run_ip("-n", hosts[1], "link", "set", "eth0", "up")
    codes, outputs = start(hosts, config, "run.name=cut").wait()
    assert codes == [0, 0], outputs
    assert "from step 3" in outputs[0] or "from step 6" in outputs[0]
    course = read_course(run)
    assert len(course) == 12
    assert course == read_course(tmp_path / "runs/undisturbed")
