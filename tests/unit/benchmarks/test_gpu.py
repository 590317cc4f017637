"""The benchmarks that wait for a GPU, as far as a CPU can tell."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import benchmarks.gpu
from benchmarks.gpu import Part, list_goals, run_part, summarize
from benchmarks.largest_batch import find_largest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_rehearsal_leaves_every_part_done(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert {result["outcome"] for result in results.values()} == {"done"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.json", "summary.md"]
    assert [result["name"] for result in results["training 64"]["content"]["results"]] == [
        "literal",
        "ours",
        "convnext",
    ]
    assert results["inference 64x96"]["content"]["setting"]["resolution"] == [64, 96]
    assert results["largest batch"]["content"] == {"ours": 1}


def test_a_part_may_be_asked_for_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.gpu, "run_part", lambda part, *_, **__: ({"outcome": "done", "seconds": 1.0}, ""))
    monkeypatch.setattr(benchmarks.gpu, "summarize", lambda results, _: "+".join(results))
    for parts, code in (("kernels+tests", 0), ("kernel", 2)):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--smoke", "--parts", parts])
        with pytest.raises(SystemExit) as ended:
            benchmarks.gpu.main()
        assert ended.value.code == code
    assert (tmp_path / "summary.md").read_text() == "kernels+tests"
    assert "no part is called 'kernel'; there are tests + training 64" in capsys.readouterr().err


def test_a_part_that_fails_is_told_with_its_last_words(tmp_path):
    def fail(arguments):
        raise ValueError("no such device")

    result, printed = run_part(make_part(fail), tmp_path, seconds=60)
    assert result["outcome"] == "failed"
    assert "no such device" in summarize({"x": result}, {"x": printed})


@pytest.mark.slow
def test_a_part_that_hangs_is_ended(tmp_path):
    def hang(arguments):
        print("so far")
        time.sleep(600)

    result, printed = run_part(make_part(hang), tmp_path, seconds=10)
    assert result["outcome"] == "out of time"
    assert "so far" in printed


def test_no_part_starts_without_time(tmp_path):
    assert run_part(make_part(print), tmp_path, seconds=9)[0]["outcome"] == "no time left"


def make_part(run) -> Part:
    return Part(name="x", run=run, arguments=[], limit_seconds=60)


def test_goals_from_numbers_worked_out_by_hand():
    def result(name: str, seconds: float, peak_bytes: int) -> dict:
        return {"name": name, "seconds": [seconds] * 3, "peak_bytes": peak_bytes, "flops_per_image": 10.0}

    content = {
        "setting": {"batch": 4},
        "machine": {"product_flops": 480.0},
        "results": [result("literal", 2.0, 100), result("ours", 0.5, 40), result("convnext", 0.6, 50)],
    }
    assert list_goals({"training 224": {"content": content}})[2:] == [
        "| ours | MFU | 0.50 | at least 0.4 |",
        "| ours | speed to literal | 4.00 | at least 3 |",
        "| ours | speed to convnext | 1.20 | at least 1.0 |",
        "| ours | memory to literal | 0.40 | at most 0.6 |",
        "",
    ]
    assert list_goals({"training 224": {"outcome": "failed"}}) == []


@pytest.mark.parametrize("largest", [0, 1, 2, 7, 100, 511, 512])
def test_the_largest_batch_is_found_to_one_in_sixteen(largest):
    tried = []

    def does_fit(batch: int) -> bool:
        tried.append(batch)
        return batch <= largest

    found = find_largest(does_fit, limit=512)
    assert largest - max(1, largest // 16) < found <= largest or found == largest
    assert max(tried) <= 512
    assert len(tried) == len(set(tried)) <= 16
