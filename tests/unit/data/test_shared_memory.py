"""Room in /dev/shm, and workers that die for want of it."""

import faulthandler
import os
import signal
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import hornet.data.shared_memory as shared_memory
from hornet.data.shared_memory import count_batch_bytes, require_shared_memory
from hornet.data.workers import WorkerPool
from hornet.errors import UserError
from hornet.stages.micro_batch import make_random_batch


@pytest.mark.parametrize(("batch_size", "image_size"), [(1, 32), (7, 33), (300, 64)])
def test_a_batch_takes_what_is_counted_when_torch_really_shares_it(batch_size, image_size):
    """Equal but for the flags and labels, which take less than the 16 bytes an image that are counted for each."""
    batch = make_random_batch(batch_size, image_size)
    taken = 0
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            descriptor = value.untyped_storage()._share_fd_cpu_()[0]  # the storage's own: it closes it
            taken += -(-os.fstat(descriptor).st_size // 4096) * 4096
    assert taken <= count_batch_bytes(batch_size, bytes_per_image=3 * image_size**2) <= taken + 3 * 4096
    assert taken >= batch_size * 3 * image_size**2


@pytest.fixture
def docker(monkeypatch, tmp_path):
    """A /dev/shm of 64 MB with 4 of them in use."""
    state = SimpleNamespace(f_frsize=4096, f_blocks=64 * 256, f_bavail=60 * 256)
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda path: state)
    return SimpleNamespace(folder=tmp_path, state=state)


def test_too_little_room_is_told_with_what_helps(docker):
    require_shared_memory([10 * 2**20, 5 * 2**20], num_local_ranks=4, folder=docker.folder)
    with pytest.raises(UserError) as error:
        require_shared_memory([10 * 2**20, 5 * 2**20 + 1], num_local_ranks=4, folder=docker.folder)
    assert str(error.value) == (
        f"{docker.folder} has 60 MB free, and the batches of this node's workers may take 61 MB there: give the "
        "container more (docker run --shm-size=8g or --ipc=host; in Kubernetes an emptyDir of medium Memory on "
        "/dev/shm), or set num_workers (of data and of evaluation) to fewer, or to 0, which needs none"
    )


def test_without_workers_a_limit_or_such_a_folder_nothing_is_asked(docker):
    require_shared_memory([0, 0], num_local_ranks=8, folder=docker.folder)
    require_shared_memory([2**40], num_local_ranks=8, folder=docker.folder / "none")
    docker.state.f_blocks = docker.state.f_bavail = 0  # a tmpfs of size=0
    require_shared_memory([2**40], num_local_ranks=8, folder=docker.folder)


class Fatal(torch.utils.data.Dataset):
    """A set whose worker ends by a signal."""

    def __init__(self, number):
        self.number = number

    def __getitem__(self, request):
        faulthandler.disable()  # pytest's, which would fill the screen
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGBUS, "a worker found no room in /dev/shm: give the container more .docker run --shm-size"),
        (signal.SIGKILL, "a worker was killed, most likely since memory ran out .* num_workers or prefetch"),
    ],
)
def test_a_worker_that_dies_for_want_of_memory_is_explained(number, said):
    pool = WorkerPool(Fatal(number), num_workers=1, prefetch=1)
    with pytest.raises(UserError, match=said):
        next(pool.run([[0]]))
    pool.close()
