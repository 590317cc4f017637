import json

import pytest

from hornet.errors import UserError
from hornet.runs.begun import write_config
from scaling.expansion import expand
from scaling.order import foresee_end, keep_within, name_runs, sort_runs
from scaling.state import count_states, look, require_nothing_stale
from tests.unit.scaling.studies import GRID, TUNED, make_study

SMALL = GRID | {"families": ["gf"], "fractions": [1.0]}


def put(study, cell, name, content):
    folder = study.folder / cell.run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def test_a_run_stands_as_its_directory_says(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    cells = expand(study)
    put(study, cells[0], "summary.json", {"digest": cells[0].digest})
    put(study, cells[1], "status.json", {"state": "failed", "error": "OSError: disk"})
    put(study, cells[2], "status.json", {"state": "running"})
    standings = look(study, cells)
    assert [standings[cell.name].state for cell in cells] == ["finished", "failed", "started", "missing"]
    assert standings[cells[1].name].reason == "OSError: disk"
    assert count_states(standings.values()) == "1 finished, 1 started, 1 failed, 1 missing"


def test_a_stale_summary_is_never_seen_and_all_that_changed_is_refused_together(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    for cell in expand(study)[:2]:
        put(study, cell, "summary.json", {"digest": cell.digest})
        write_config(study.folder / cell.run, cell.config)
    longer = make_study(
        tmp_path, groups={"grid": SMALL | {"overrides": [*SMALL["overrides"], "mixing.cutmix_alpha=1"]}}
    )
    cells = expand(longer)
    standings = look(longer, cells)
    assert [standings[cell.name].state for cell in cells] == ["stale", "stale", "missing", "missing"]
    assert standings[cells[0].name].summary is None
    with pytest.raises(UserError) as caught:
        require_nothing_stale(standings)
    change = "was made with another config (mixing.cutmix_alpha: 0.0 -> 1.0)"
    assert str(caught.value).splitlines() == [
        f"{cells[0].name}: {change}",
        f"{cells[1].name}: {change}",
        "undo the change, choose another study.name, or move these run directories away to make them anew",
    ]


def test_a_summary_of_another_set_is_stale_though_its_config_is_the_same(tmp_path):
    study = make_study(tmp_path, groups={"grid": SMALL})
    cell = expand(study)[0]
    put(study, cell, "summary.json", {"digest": "0" * 64})
    write_config(study.folder / cell.run, cell.config)
    assert look(study, [cell])[cell.name].reason == "was made from another set, or from another start"


def test_corners_with_the_first_seed_come_first_and_what_is_foretold_and_finetunings_last(tmp_path):
    groups = {
        "large": SMALL | {"sizes": ["nano"], "seeds": [0], "predict_first": True},
        "tuned": TUNED | {"sizes": ["atto"], "seeds": [0]},
        "grid": SMALL | {"sizes": ["atto", "femto", "pico"]},
    }
    cells = expand(make_study(tmp_path, groups=groups))
    seconds = {cell.name: 10.0 if cell.size == "pico" else 1.0 for cell in cells}
    order = sort_runs(cells, seconds=seconds)
    assert [cell.name.replace("_f1_e2", "") for cell in order] == [
        "grid/gf-atto_s0", "grid/gf-pico_s0", "grid/gf-femto_s0", "grid/gf-atto_s1", "grid/gf-pico_s1",
        "grid/gf-femto_s1", "large/gf-nano_s0", "tuned/gf-atto_s0",
    ]  # fmt: skip


def test_a_budget_keeps_the_beginning_of_the_order_and_no_orphan(tmp_path):
    cells = expand(make_study(tmp_path, groups={"grid": SMALL, "tuned": TUNED}))
    order = sort_runs(cells, seconds={})
    seconds = {cell.name: 10.0 for cell in cells}
    runs = name_runs(cells)
    assert keep_within(order, seconds=seconds, budget=15, slots=2, runs=runs) == order[:2]
    assert keep_within(order, seconds=seconds, budget=20, slots=2, runs=runs) == order[:4]
    parent = next(cell for cell in cells if cell.name == order[-1].parent)
    strange = [order[-1], order[0], parent]  # a finetuning before its parent
    assert keep_within(strange, seconds=seconds, budget=20, slots=1, runs=runs) == [order[0]]


def test_the_end_is_foreseen_as_the_pool_starts_runs(tmp_path):
    groups = {"grid": SMALL, "large": SMALL | {"sizes": ["nano"], "seeds": [0], "predict_first": True}, "tuned": TUNED}
    cells = expand(make_study(tmp_path, groups=groups))
    order, runs = sort_runs(cells, seconds={}), name_runs(cells)
    seconds = {cell.name: {"grid": 10.0, "large": 30.0, "tuned": 4.0}[cell.group] for cell in cells}
    grid, large, tuned = order[:4], order[4:5], order[5:]
    assert len(tuned) == 4
    assert foresee_end(grid, seconds=seconds, slots=2, runs=runs) == 20
    assert foresee_end(grid[:3], seconds=seconds, slots=2, runs=runs) == 20, "one slot is empty in the end"
    assert foresee_end([*grid[:3], *large], seconds=seconds, slots=2, runs=runs) == 20 + 30, "it waits for all three"
    # Four in two rounds; then the large one beside the finetunings, one after the other.
    assert foresee_end(order, seconds=seconds, slots=2, runs=runs) == 20 + 30
    assert foresee_end(order, seconds=seconds, slots=1, runs=runs) == 40 + 30 + 16
    assert foresee_end(grid[2:], seconds=seconds, slots=2, runs=runs, running=[(3.0, grid[0]), (7.0, grid[1])]) == 17
    assert foresee_end([], seconds=seconds, slots=2, runs=runs) == 0
