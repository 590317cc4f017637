import json

import pytest

from hornet import durable
from hornet.errors import UserError
from hornet.seeding import derive_seed


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    durable.write_json(path, {"old": 1})

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        durable.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path], "no litter"


def test_two_writers_of_one_number_do_not_meet(tmp_path):
    """Process 7 of two containers, which share a disk."""
    path = tmp_path / "a.json"
    with durable.replacing(path) as one:
        durable.write_json(path, {"other": 2})
        one.write_text('{"one": 1}')
    assert json.loads(path.read_text()) == {"one": 1}
    assert list(tmp_path.iterdir()) == [path], "no litter"


def test_a_line_cut_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert durable.read_json_lines(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("broken", [b"nonsense", bytes(40) + b'{"step": 2}', b'{"step": "\xff"}'])
def test_a_broken_line_in_the_middle_is_named(tmp_path, broken):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"m\.jsonl: line 2 is not JSON"):
        durable.read_json_lines(path)


def test_a_missing_file_has_no_lines(tmp_path):
    assert durable.read_json_lines(tmp_path / "absent") == []


def test_seeds_depend_on_every_part_and_their_order_and_kind():
    seeds = {
        derive_seed("a", 1, 2),
        derive_seed("a", 2, 1),
        derive_seed("a", 12),
        derive_seed("a", "1", 2),
        derive_seed("b", 1, 2),
        derive_seed("a", 1, 2, 0),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_on_every_machine():
    # blake2b-64 of the text "str:a\0int:1", without its lowest bit; computed with b2sum -l 64
    import hashlib

    expected = int(hashlib.blake2b(b"str:a\x00int:1", digest_size=8).hexdigest(), 16) >> 1
    assert derive_seed("a", 1) == expected
