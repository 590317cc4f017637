"""Which absent sets and weights are told before torch is imported, and which are left to the stage."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from hornet.cli.command_line import refuse_hopeless_start


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def make_config(*, shards="absent", evaluation=None, start=None):
    return SimpleNamespace(
        run=SimpleNamespace(root=Path("runs"), name="x"),
        data=SimpleNamespace(shards=shards),
        evaluation=evaluation and SimpleNamespace(shards=evaluation),
        **({} if start is None else {"start": SimpleNamespace(from_=start)}),
    )


def test_all_that_is_missing_is_said_at_once(capsys):
    with pytest.raises(SystemExit) as ended:
        refuse_hopeless_start(make_config(evaluation="gone", start=Path("none.pth")))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" is missing")[0] for line in lines[:2]] == [
        "error: data.shards: absent/_info.json",
        "error: evaluation.shards: gone/_info.json",
    ]
    assert lines[2:] == [
        "error: start.from: none.pth does not exist; give a run directory, a checkpoint in one or a weight file"
    ]


@pytest.mark.parametrize("place", ["https://example.org/x", "s3://bucket/x", "absent/x-{000..009}.tar", "absent/*.tar"])
def test_what_is_no_folder_here_is_looked_at_later(place):
    refuse_hopeless_start(make_config(shards=place))


def test_what_is_there_is_looked_at_later(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "x.pth").touch()
    (tmp_path / "link.pth").symlink_to("gone.pth")
    for start in ("x.pth", "link.pth", "x.pth/inside"):
        refuse_hopeless_start(make_config(shards="set", start=Path(start)))


def test_a_run_that_was_begun_may_need_its_inputs_no_more(tmp_path):
    (tmp_path / "runs/x").mkdir(parents=True)
    refuse_hopeless_start(make_config())


def test_ranks_of_several_nodes_tell_each_other_later(monkeypatch):
    world = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    refuse_hopeless_start(make_config())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        refuse_hopeless_start(make_config())
