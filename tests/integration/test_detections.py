"""AP of two and three ranks is that of one, to the last digit, though the images do not divide evenly."""

import json
import subprocess
import sys

import pytest

from tests.integration.conftest import ROOT, make_environment
from tests.patience import PATIENCE
from tests.unit.shards.coco_set import build_set


@pytest.mark.slow  # two imports of torch
def test_any_number_of_ranks_finds_the_same(tmp_path):
    build_set(tmp_path, num_images=10)
    command = [sys.executable, "-m", "tests.integration.detections", str(tmp_path), "1", "2", "3"]
    done = subprocess.run(command, cwd=ROOT, env=make_environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    worlds = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"num_ranks"')]
    assert [len(world["rows"]) for world in worlds] == [1, 2, 3]
    rows = [row for world in worlds for row in world["rows"]]
    assert len({json.dumps(row) for row in rows}) == 1
    assert rows[0]["num_images"] == 10
    assert 5 < rows[0]["mask_ap"] < 95
    for name in ("bbox.json", "segm.json"):
        assert len({(tmp_path / f"of_{number}" / name).read_bytes() for number in (1, 2, 3)}) == 1
