import json
import os
import subprocess
import time

import pytest

from hornet.errors import UserError
from hornet.runs.lock import Lock
from scaling import pool as pools
from scaling.expansion import expand
from scaling.pool import Pool, hold_study, start_run
from scaling.state import look
from tests.unit.scaling.studies import GRID, TUNED, make_study

SMALL = GRID | {"families": ["gf"], "fractions": [1.0]}  # 2 sizes, 2 seeds
FINISH = "mkdir -p {folder} && echo '{summary}' > {folder}/summary.json"


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Return a function that makes a pool whose runs are shell commands: what they do is said by a run's name."""
    monkeypatch.setattr(pools, "POLL_SECONDS", 0.01)

    def start(*, does=None, groups=None, stop=lambda: None, foretell=lambda: None, **sections):
        study = make_study(tmp_path, groups=groups or {"grid": SMALL}, **sections)
        cells = expand(study)
        started = []

        def start_stand_in(study, cell, config, log, *, slot=0):
            assert config.exists()
            started.append(cell.run)
            log.parent.mkdir(parents=True, exist_ok=True)
            words = FINISH.format(folder=study.folder / cell.run, summary=json.dumps({"digest": cell.digest}))
            words = (does or {}).get(cell.run, "FINISH").replace("FINISH", words)
            with log.open("ab") as file:
                return subprocess.Popen(["sh", "-c", words], stdout=file, stderr=file, start_new_session=True)

        monkeypatch.setattr(pools, "start_run", start_stand_in)
        study.folder.mkdir(parents=True, exist_ok=True)
        made = Pool(study=study, cells=cells, seconds={}, ask_to_stop=stop, foretell=foretell)
        return made, cells, started

    return start


def states(pool, cells):
    return {name: standing.state for name, standing in look(pool.study, cells).items()}


def test_all_runs_are_finished_and_status_says_so(begin, capsys):
    pool, cells, started = begin()
    assert pool.run(cells) is None
    assert set(states(pool, cells).values()) == {"finished"}
    assert len(started) == 4
    assert "4/4 finished, 0 running  finished grid/" in capsys.readouterr().out
    assert json.loads((pool.study.folder / "status.json").read_text())["state"] == "finished"


def test_no_more_runs_at_a_time_than_there_is_room_for(begin, tmp_path):
    _, cells, _ = begin(execution={"cores": 2})
    marks = tmp_path / "marks"
    marks.mkdir()
    both = "touch {0}/{1}; until [ $(ls {0} | wc -l) -ge 2 ]; do sleep 0.01; done; FINISH"  # the first waits
    does = {cell.run: both.format(marks, number) for number, cell in enumerate(cells)}
    pool, cells, _ = begin(does=does, execution={"cores": 2})
    most = []
    pool.ask_to_stop = lambda: most.append(len(pool.jobs))
    pool.run(cells)
    assert max(most) == 2


def test_a_run_that_fails_goes_on_and_one_that_fails_again_is_given_up(begin, capsys):
    once = "test -e {0} || {{ touch {0}; echo first try; exit 7; }}; FINISH"
    pool, cells, started = begin()
    names = [cell.run for cell in cells]
    pool, cells, started = begin(
        does={
            names[0]: once.format(pool.study.folder / "mark"),
            names[1]: "echo out of luck; exit 3",
            names[2]: "echo no such key; exit 2",
            names[3]: "echo STOP file; exit 0",
        }
    )
    pool.run(cells)
    assert [started.count(name) for name in names] == [2, 2, 1, 1]
    assert pool.failed == {
        names[1]: "exit code 3: out of luck",
        names[2]: "it was refused: no such key",
        names[3]: "it was stopped before its end (STOP file)",
    }
    assert states(pool, cells) == dict(zip(names, ["finished", "failed", "failed", "failed"], strict=True))
    assert look(pool.study, cells)[names[1]].reason == "exit code 3: out of luck"
    assert f"exit code 7 of {names[0]}, started again from its checkpoint (first try)" in capsys.readouterr().out


def test_a_log_that_somebody_removes_ends_nothing(begin):
    pool, cells, _ = begin(groups={"grid": SMALL | {"sizes": ["atto"]}})
    log = pool.study.folder / "logs" / f"{cells[0].run}.log"
    pool, cells, _ = begin(groups={"grid": SMALL | {"sizes": ["atto"]}}, does={cells[0].run: f"rm {log}; exit 2"})
    assert pool.run(cells) is None
    assert pool.failed == {cells[0].run: "it was refused: its log is gone"}
    assert states(pool, cells)[cells[1].name] == "finished"


def test_what_each_attempt_took_is_written_down(begin, monkeypatch):
    pool, cells, _ = begin(groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}})
    run, mark = cells[0].run, pool.study.folder / "mark"
    once = f"test -e {mark} || {{ touch {mark}; exit 7; }}; FINISH"
    pool, cells, _ = begin(groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}}, does={run: once})
    taken = []
    monkeypatch.setattr(pools, "add_taken", lambda study, *what: taken.append(what))
    pool.run(cells)
    assert [name for name, _ in taken] == [run, run]
    assert all(seconds > 0 for _, seconds in taken)
    pool, cells, _ = begin(groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}}, does={run: "sleep 100"})
    pool.ask_to_stop = lambda: "SIGTERM" if pool.jobs else None
    pool.run(cells)
    assert len(taken) == 3, "a run that was stopped has taken its time too"


def test_whoever_stops_the_pool_stops_its_runs_and_the_same_command_goes_on(begin, capsys):
    trapped = "trap 'echo saved > {}; exit 0' TERM; while :; do sleep 0.01; done"
    pool, cells, _ = begin(groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}})
    saved = pool.study.folder / "saved"
    pool, cells, started = begin(
        groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}}, does={cells[0].run: trapped.format(saved)}
    )

    def stop():
        if not pool.jobs:
            return None
        time.sleep(0.3)  # for the shell to set its trap
        return "SIGTERM"

    pool.ask_to_stop = stop
    assert pool.run(cells) == "SIGTERM"
    assert saved.exists()
    assert "SIGTERM: 1 runs save and stop; the same command goes on" in capsys.readouterr().out
    assert json.loads((pool.study.folder / "status.json").read_text())["state"] == "stopped"
    pool, cells, started = begin(groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}})
    assert pool.run(cells) is None
    assert started == [cells[0].run]


@pytest.mark.slow
def test_finetunings_follow_their_parents_and_fall_with_them(begin):
    groups = {"tuned": TUNED | {"sizes": ["atto"]}, "grid": SMALL}
    pool, cells, _ = begin(groups=groups)
    broken = "grid/gf-atto_f1_e2_s1"
    pool, cells, started = begin(groups=groups, does={broken: "echo broken; exit 2"})
    pool.run(cells)
    assert started.index("grid/gf-atto_f1_e2_s0") < started.index("tuned/gf-atto_f1_e2_s0")
    assert "tuned/gf-atto_f1_e2_s1" not in started
    assert pool.failed["tuned/gf-atto_f1_e2_s1"] == f"its parent {broken} failed"


def test_branches_follow_their_trunk_and_fall_with_it(begin):
    overrides = [*SMALL["overrides"], "schedule.shape=wsd"]
    groups = {"lengths": SMALL | {"sizes": ["atto"], "epochs": [2, 4], "trunk": True, "overrides": overrides}}
    broken = "lengths/gf-atto_f1_e4_s1"
    pool, cells, started = begin(groups=groups, does={broken: "echo broken; exit 2"})
    pool.run(cells)
    assert started.index("lengths/gf-atto_f1_e4_s0") < started.index("lengths/gf-atto_f1_e2_s0")
    assert "lengths/gf-atto_f1_e2_s1" not in started
    assert pool.failed["lengths/gf-atto_f1_e2_s1"] == f"its trunk {broken} failed"


def test_held_out_runs_wait_for_their_prediction(begin):
    groups = {"large": SMALL | {"sizes": ["pico"], "predict_first": True}, "grid": SMALL}
    pool, cells, started = begin(groups=groups)
    seen = []
    pool.foretell = lambda: seen.append(list(started))
    pool.run(cells)
    assert set(seen[0]) == {cell.run for cell in cells if cell.group == "grid"}
    assert len(started) == 6


def test_held_out_runs_that_cannot_be_foretold_do_not_start(begin):
    groups = {"large": SMALL | {"sizes": ["pico"], "predict_first": True}, "grid": SMALL}
    pool, cells, started = begin(groups=groups, foretell=lambda: "too few cells")
    pool.run(cells)
    assert len(started) == 4
    assert pool.failed["large/gf-pico_f1_e2_s0"] == "it was not foretold: too few cells"


def test_a_run_that_another_process_is_at_work_on_is_waited_for(begin):
    pool, cells, started = begin(groups={"grid": SMALL | {"sizes": ["atto"], "seeds": [0]}})
    with Lock(pool.study.folder / cells[0].run):
        turns = []
        pool.ask_to_stop = lambda: turns.append(1) or ("enough" if len(turns) > 5 else None)
        assert pool.run(cells) == "enough"
    assert started == []
    pool.ask_to_stop = lambda: None
    pool.run(cells)
    assert started == [cells[0].run]


def test_two_runners_at_once_are_refused(tmp_path):
    study = make_study(tmp_path)
    with hold_study(study), pytest.raises(UserError, match=rf"process {os.getpid()} on .* is running this study; stop"):
        hold_study(study)
    with hold_study(study):
        pass


def test_a_run_is_the_ordinary_command_without_gpus(tmp_path, monkeypatch):
    study = make_study(tmp_path, execution={"threads": 1})
    cell = expand(study)[0]
    shown = tmp_path / "shown.py"
    shown.write_text("import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'], os.environ['DS_ACCELERATOR'])")
    monkeypatch.setattr(pools.Script, "words", property(lambda self: [str(shown), self.stage]))
    log = tmp_path / "logs/x.log"
    assert start_run(study, cell, tmp_path / "c.yaml", log).wait() == 0
    assert log.read_text() == f"['pretrain', '--config', '{tmp_path / 'c.yaml'}'] 1 cpu\n"


@pytest.mark.slow
def test_a_run_that_shares_a_gpu_sees_that_one_alone(tmp_path, monkeypatch):
    study = make_study(tmp_path, execution={"cores": 8, "gpus": 2, "runs_per_gpu": 4})
    shown = tmp_path / "shown.py"
    shown.write_text("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    monkeypatch.setattr(pools.Script, "words", property(lambda self: [str(shown)]))
    log = tmp_path / "logs/x.log"
    for slot in range(3):
        start_run(study, expand(study)[0], tmp_path / "c.yaml", log, slot=slot).wait()
    assert log.read_text().split() == ["0", "1", "0"]
