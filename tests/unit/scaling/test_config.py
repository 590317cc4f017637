import pytest

from hornet.config import ConfigError
from scaling.config import ExecutionConfig, read_study
from tests.unit.scaling.studies import GRID, TUNED, make_study, write_study


def problems_of(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        read_study(path, overrides)
    return caught.value.problems


def test_groups_keep_their_order(tmp_path):
    study = make_study(tmp_path, groups={"tuned": TUNED, "grid": GRID})
    assert list(study.groups) == ["tuned", "grid"]
    assert study.groups["grid"].fractions == (0.5, 1.0)
    assert study.folder == tmp_path / "runs/toy"


def test_all_problems_come_together_and_name_the_group(tmp_path):
    groups = {
        "grid": GRID | {"seeds": [], "sizes": ["atto", "atto"], "fractions": [1.5], "famlies": ["gf"]},
        "tuned": TUNED | {"from": "absent"},
    }
    assert problems_of(write_study(tmp_path, groups=groups), "fit.laws=[powr]") == [
        "fit.laws: 'powr' is not one of power, saturating, bounded, shifted, chinchilla, bounded_joint, kaplan, "
        "repeated, three_term",
        "groups.grid.famlies: unknown key; did you mean families?",
        "groups.grid.sizes: holds atto twice, so runs would stand twice in the study; name it once",
        "groups.grid.seeds: is empty, so the group has no runs; name at least one, or leave the key out",
        "groups.grid.fractions: must be over 0 and at most 1, not 1.5",
        "groups.tuned.from: there is no group 'absent'; groups are grid, tuned",
    ]


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        (
            {"tuned": TUNED | {"from": "absent"}},
            "groups.tuned.from: there is no group 'absent'; groups are tuned",
        ),
        (
            {"grid": GRID, "tuned": TUNED, "again": TUNED | {"from": "tuned"}},
            "groups.again.from: tuned is a finetuning itself; name the group of the pretrainings",
        ),
        (
            {"grid": GRID, "tuned": TUNED | {"predict_first": True}},
            "groups.tuned.predict_first: laws foretell pretrainings; leave it out of finetunings",
        ),
        (
            {"grid": {key: value for key, value in GRID.items() if key != "sizes"}},
            "groups.grid.base: {size} stands in it or in overrides, but the group lists none",
        ),
        ({"grid": GRID | {"images_seen": [48]}}, "groups.grid.images_seen: stands beside epochs; give one of the two"),
        ({"grid": GRID | {"epochs": [0]}}, "groups.grid.epochs: must be above 0, not 0"),
        (
            {"grid": GRID | {"images_by_fraction": [48, 48]}},
            "groups.grid.images_by_fraction: stands beside epochs or images_seen; give one of the three",
        ),
        (
            {"grid": GRID | {"epochs": None, "images_by_fraction": [48]}},
            "groups.grid.images_by_fraction: has 1 lengths for 2 fractions; give one for each",
        ),
        (
            {"grid": GRID, "tuned": TUNED | {"images_by_fraction": [48]}},
            "groups.tuned.images_by_fraction: is for pretrainings; give a finetuning epochs or images_seen",
        ),
        ({"grid": 3}, "groups.grid: must hold keys"),
    ],
)
def test_a_group_that_cannot_be_is_refused(tmp_path, groups, problem):
    assert problems_of(write_study(tmp_path, groups=groups)) == [problem]


def test_overrides_of_a_name_that_no_group_has_are_refused(tmp_path):
    path = write_study(tmp_path, per={"pico": ["schedule.peak_lr=1e-3"], "atto": "schedule.peak_lr=1e-3"})
    assert problems_of(path) == ["per.atto: must be a list of key=value"]
    path = write_study(tmp_path, per={"7x7": ["schedule.peak_lr=1e-3"], "7x7-femto": ["schedule.peak_lr=2e-3"]})
    assert read_study(path).per["7x7-femto"] == ("schedule.peak_lr=2e-3",)  # a name need not be a word
    path = write_study(tmp_path, per=["7x7"])
    assert problems_of(path) == ["per: must hold names of families and sizes, each with a list of key=value"]
    path = write_study(tmp_path, per={"pico": ["schedule.peak_lr=1e-3"]})
    assert problems_of(path) == ["per.pico: no group has a family or size of that name"]


@pytest.mark.parametrize(
    ("values", "slots"),
    [
        ({"cores": 2}, 2),
        ({"cores": 7, "threads": 2}, 3),
        ({"cores": 8, "memory_gb": 5, "run_memory_gb": 2}, 2),
        ({"cores": 8, "gpus": 1}, 1),
        ({"cores": 16, "memory_gb": 64, "gpus": 1, "runs_per_gpu": 14}, 14),
        ({"cores": 4, "memory_gb": 64, "gpus": 2, "runs_per_gpu": 3}, 4),
    ],
)
def test_as_many_runs_at_a_time_as_cores_memory_and_gpus_allow(values, slots):
    assert ExecutionConfig(**values).num_slots == slots


def test_runs_that_share_gpus_are_spread_over_them():
    execution = ExecutionConfig(cores=6, gpus=2, runs_per_gpu=3)
    assert [execution.find_gpu(slot) for slot in range(6)] == [0, 1, 0, 1, 0, 1]
    assert ExecutionConfig().find_gpu(1) is None


def test_sharing_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="runs_per_gpu: 14 runs have no GPU to share; say how many there are in gpus"):
        ExecutionConfig(runs_per_gpu=14)
    with pytest.raises(ConfigError, match="runs_per_gpu: must be at least 1, not 0"):
        ExecutionConfig(gpus=1, runs_per_gpu=0)


def test_a_machine_too_small_for_one_run_is_refused():
    with pytest.raises(ConfigError, match="cores: 1 are fewer than the 2 threads of one run"):
        ExecutionConfig(cores=1, threads=2)
    with pytest.raises(ConfigError, match=r"run_memory_gb: must be over 0 and at most memory_gb \(1\), not 2"):
        ExecutionConfig(memory_gb=1)
