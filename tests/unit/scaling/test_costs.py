import json
import resource
import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest

from hornet.errors import UserError
from scaling.costs import (
    Speed,
    count_seconds,
    estimate,
    find_key,
    guess_speed,
    read_speed,
    read_speeds,
    write_speeds,
)
from scaling.expansion import expand
from scaling.ledger import Cost, add_taken, compare, read_ledger, write_planned
from scaling.networks import NetworkFacts
from scaling.pool import Ended, run_together
from scaling.state import look
from scaling.timing import NUM_STEPS, find_memory_problems, measure, require_memory
from tests.patience import PATIENCE
from tests.unit.scaling.studies import GRID, make_study

SMALL = GRID | {"families": ["gf"], "fractions": [1.0], "seeds": [0]}
SPEED = Speed(seconds_per_image=0.5, seconds_per_evaluated_image=0.125, save_seconds=2.0, fixed_seconds=10.0)


def with_cadence(cell, **cadence):
    return replace(cell, config=replace(cell.config, cadence=replace(cell.config.cadence, **cadence)))


def describe(cells, flops):
    return {
        cell.name: NetworkFacts(num_parameters=9, num_head_parameters=1, flops_per_image=flops[cell.size])
        for cell in cells
    }


def write_run(folder, *, summary, events=()):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_cost_is_a_sum_of_what_is_fixed_steps_evaluations_and_checkpoints(tmp_path):
    cell = expand(make_study(tmp_path, groups={"grid": SMALL}))[0]
    steps, images = cell.num_steps, cell.evaluation.num_samples
    assert (steps, cell.config.global_batch_size, images, cell.config.optimizer.ema_decay) == (24, 4, 48, None)
    rare = with_cadence(cell, save_every_steps=1000, evaluate_every_steps=None)
    assert count_seconds(rare, SPEED) == 10 + 24 * 4 * 0.5 + 48 * 0.125 + 2
    # Saved after 10, 20 and 24 steps, evaluated after 7, 14, 21 and 24.
    often = with_cadence(cell, save_every_steps=10, evaluate_every_steps=7)
    assert count_seconds(often, SPEED) == 10 + 24 * 4 * 0.5 + 4 * 48 * 0.125 + 3 * 2
    # The last step is one of the multiples.
    even = with_cadence(cell, save_every_steps=12, evaluate_every_steps=24)
    assert count_seconds(even, SPEED) == 10 + 24 * 4 * 0.5 + 48 * 0.125 + 2 * 2
    both = replace(rare, config=replace(cell.config, optimizer=replace(cell.config.optimizer, ema_decay=0.9)))
    assert count_seconds(both, SPEED) == 10 + 24 * 4 * 0.5 + 2 * 48 * 0.125 + 2


def test_a_finished_run_tells_all_parts_of_its_cost(tmp_path):
    cell = expand(make_study(tmp_path, groups={"grid": SMALL}))[0]
    events = [
        {"event": "starting"}, {"event": "save", "seconds": 1.0}, {"event": "save", "seconds": 3.0},
        {"event": "evaluate", "seconds": 6.0}, {"event": "finished"},
    ]  # fmt: skip
    summary = {"images_per_second": 2.0, "images_seen": 96, "steps": 24}
    write_run(tmp_path / "run", summary=summary, events=events)
    found = read_speed(tmp_path / "run", summary, cell=cell, seconds=68.0)
    assert found == SPEED  # 68 - 96 / 2 - (1 + 3) - 6
    assert count_seconds(with_cadence(cell, save_every_steps=12), found) == 68.0


def test_finished_runs_tell_first_and_the_median_of_them_counts(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL | {"seeds": [0, 1, 2, 3]}})
    cells = [cell for cell in expand(study) if cell.size == "atto"]
    networks = describe(cells, {"atto": 100})
    for cell, speed in zip(cells[:3], (1.0, 2.0, 2.0), strict=True):
        summary = {"digest": cell.digest, "images_per_second": speed, "images_seen": 96, "steps": 24, "seconds": 99.0}
        write_run(study.folder / cell.run, summary=summary)
    write_speeds(study, {find_key(study, cells[0]): SPEED})

    def cost_of_the_last():
        return estimate(study, cells, networks, look(study, cells))[cells[3].name].seconds

    assert cost_of_the_last() == count_seconds(cells[3], SPEED), "runs do not say how long their imports took"
    # 96 images at 2 a second, and 7, 12 and 52 s of 103, 60 and 100 are fixed.
    for cell, seconds in zip(cells[:3], (103.0, 108.0, 148.0), strict=True):
        add_taken(study, cell.run, seconds)
    assert cost_of_the_last() == 96 / 2 + 60


def test_costs_of_a_network_that_was_not_measured_go_by_its_operations(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    atto, femto = expand(study)
    write_speeds(study, {find_key(study, atto): SPEED})
    costs = estimate(study, [atto, femto], describe([atto, femto], {"atto": 100, "femto": 300}), {})
    scaled = replace(SPEED, seconds_per_image=1.5, seconds_per_evaluated_image=0.375)
    assert costs == {
        atto.name: Cost(seconds=count_seconds(atto, SPEED), source="measured"),
        femto.name: Cost(seconds=count_seconds(femto, scaled), source="by FLOPs"),
    }


def test_times_of_networks_lie_on_a_line_in_operations_that_falls_nowhere():
    def at(time):
        return replace(SPEED, seconds_per_image=time, seconds_per_evaluated_image=time / 2)

    found = guess_speed([(100, at(0.5)), (300, at(0.7))], 200)
    assert (found.seconds_per_image, found.seconds_per_evaluated_image) == pytest.approx((0.6, 0.3))
    assert guess_speed([(100, at(0.5)), (300, at(0.7))], 700).seconds_per_image == pytest.approx(1.1)
    # The larger one was faster: a constant c with the least (c / 0.7 - 1)^2 + (c / 0.5 - 1)^2.
    flat = (1 / 0.7 + 1 / 0.5) / (1 / 0.7**2 + 1 / 0.5**2)
    assert guess_speed([(100, at(0.7)), (300, at(0.5))], 900).seconds_per_image == pytest.approx(flat)
    assert guess_speed([(100, at(0.5)), (100, at(0.5))], 400).seconds_per_image == pytest.approx(2.0)


def stand_in(asked, *, code=0, memory_gb=1.5):
    """Return what makes copies that took 20, 30, 40 s ... of which 8 steps of 4 images took 1 s each."""

    def run(study, cell, configs):
        ended = []
        for number, config in enumerate(configs):
            asked.append((cell.size, config.read_text()))
            summary = {"images_per_second": 4.0, "images_seen": NUM_STEPS * 4, "steps": NUM_STEPS}
            events = [{"event": "save", "seconds": 0.5}, {"event": "evaluate", "seconds": 4.8}]
            if code == 0:
                write_run(config.with_suffix(""), summary=summary, events=events)
            ended.append(Ended(code=code, seconds=20.0 + 10 * number, memory_gb=memory_gb - 0.1 * number))
        return ended

    return run


@pytest.mark.slow
def test_networks_are_timed_with_as_many_copies_at_a_time_as_there_are_runs(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL | {"fractions": [0.5, 1.0]}}, execution={"cores": 3})
    asked = []
    measure(study, expand(study), run_together=stand_in(asked))
    assert [size for size, _ in asked] == ["atto"] * 3 + ["femto"] * 3, "a network once, whatever the share"
    assert all("evaluate_every_steps: null" in text and "name: copy_" in text for _, text in asked)
    found = read_speeds(study)[find_key(study, expand(study)[-1])]
    assert found == Speed(
        seconds_per_image=0.25, seconds_per_evaluated_image=pytest.approx(4.8 / 48), save_seconds=0.5,
        fixed_seconds=pytest.approx(30 - NUM_STEPS - 0.5 - 4.8), memory_gb=1.5,
    )  # fmt: skip
    measure(study, expand(study), run_together=stand_in(asked))
    assert len(asked) == 6, "what was measured is not measured again"
    assert not (study.folder / "measure").exists()


def test_a_copy_that_fails_is_named_with_its_log(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    text = rf"grid/gf-atto_f1_e2_s0: {NUM_STEPS} steps to time it failed with exit code 3; see .*measure/copy_0.log"
    with pytest.raises(UserError, match=text):
        measure(study, expand(study), run_together=stand_in([], code=3))


def test_speeds_of_an_earlier_release_are_measured_again(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    study.folder.mkdir(parents=True)
    key = find_key(study, expand(study)[0])
    (study.folder / "speeds.json").write_text(json.dumps({key: {"seconds_per_image": 1.0, "start_seconds": 2.0}}))
    assert read_speeds(study) == {}


def test_runs_that_hold_more_memory_than_the_study_says_are_refused(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL}, execution={"run_memory_gb": 1.4})
    cells = expand(study)
    measure(study, cells, run_together=stand_in([], memory_gb=1.5))
    text = (
        "execution.run_memory_gb: is 1.4, but a run of hornet_atto_gf was seen to hold 1.50 GB; say at least that, so "
        "that no more runs start than the memory has room for"
    )
    assert list(find_memory_problems(study, cells)) == [text, text.replace("atto", "femto")]
    with pytest.raises(UserError) as caught:
        require_memory(study, cells)
    assert str(caught.value).splitlines()[0] == text
    require_memory(make_study(tmp_path, groups={"grid": SMALL}, execution={"run_memory_gb": 1.5}), cells)
    less = make_study(tmp_path, groups={"grid": SMALL}, execution={"run_memory_gb": 0.5, "cores": 8})
    assert len(list(find_memory_problems(less, cells))) == 2, "what was held is known, however many runs there are now"


@pytest.mark.slow
def test_copies_run_at_the_same_time_and_tell_time_memory_and_exit_code(tmp_path, monkeypatch):
    study = make_study(tmp_path, groups={"grid": SMALL})
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 100_000_000  # what is forked has held ours too
    # Each waits for the other one's file: one after the other would never end.
    script = tmp_path / "copy.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "mine = pathlib.Path(sys.argv[-1]); block = b'1' * int(sys.argv[1])\n"
        "mine.with_suffix('.mark').touch()\n"
        "while len(list(mine.parent.glob('*.mark'))) < 2: time.sleep(0.01)\n"
        "sys.exit(3 if mine.stem == 'b' else 0)\n"
    )
    monkeypatch.setattr("scaling.pool.Script.words", property(lambda self: [str(script), str(held)]))
    first, second = run_together(study, expand(study)[0], [tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert (first.code, second.code) == (0, 3)
    assert held < first.memory_gb * 1e9 < held + 300_000_000
    assert first.seconds > 0


def test_whoever_interrupts_a_measurement_ends_its_copies(tmp_path, monkeypatch):
    study = make_study(tmp_path, groups={"grid": SMALL})
    script, mark = tmp_path / "copy.py", tmp_path / "pid"
    script.write_text(
        f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(mark)!r}); time.sleep(600)\n"
    )
    monkeypatch.setattr("scaling.pool.Script.words", property(lambda self: [str(script)]))

    def interrupt():
        while not mark.exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # A shell starts what it is told to start in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            run_together(study, expand(study)[0], [tmp_path / "a.yaml"])
    finally:
        signal.signal(signal.SIGINT, before)
    copy, deadline = int(mark.read_text()), time.monotonic() + PATIENCE
    while is_running(copy):  # a signal that was sent has not arrived yet
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_runs_were_said_to_take_stands_beside_what_they_took(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    write_planned(study, {"grid/a": Cost(seconds=8.0, source="measured"), "grid/b": None})
    add_taken(study, "grid/a", 6.0)
    add_taken(study, "grid/a", 4.0)
    add_taken(study, "grid/c", 1.0)
    ledger = read_ledger(study)
    assert (ledger["grid/a"].planned, ledger["grid/a"].took) == (8.0, 10.0)
    assert (ledger["grid/b"].planned, ledger["grid/b"].took) == (None, None)
    assert (ledger["grid/c"].planned, ledger["grid/c"].took) == (None, 1.0)
    write_planned(study, {"grid/a": Cost(seconds=9.0, source="by FLOPs")})  # its directory was moved away
    assert (read_ledger(study)["grid/a"].planned, read_ledger(study)["grid/a"].took) == (9.0, None)
    said = "2 runs took 1 min 50 s and were said to take 1 min 38 s, 0.89 of it"
    assert compare([(8.0, 10.0), (90.0, 100.0)]) == said
