import json
from dataclasses import replace
from pathlib import Path

import pytest

from hornet.config import ConfigError
from hornet.errors import UserError
from hornet.shards.manifest import read_manifest
from scaling.config import read_study
from scaling.expansion import expand
from scaling.shares import find_unnested, make_shares
from tests.unit.scaling.studies import GRID, OVERRIDES, ROOT, TUNED, make_study


def problems_of(tmp_path, **sections):
    with pytest.raises(ConfigError) as caught:
        expand(make_study(tmp_path, **sections))
    return caught.value.problems


def shares_of(cells):
    return [share for share in dict.fromkeys(cell.share for cell in cells) if share is not None]


def expand_with_shares(study):
    make_shares(shares_of(expand(study)))
    return expand(study)


@pytest.mark.slow
def test_every_combination_is_an_ordinary_config(tmp_path):
    cells = expand_with_shares(make_study(tmp_path))
    assert len({cell.name for cell in cells}) == len(cells) == 16
    cell = next(cell for cell in cells if cell.name == "grid/7x7-femto_f0.5_e2_s1")
    assert (cell.config.model.name, cell.config.run.seed) == ("hornet_femto_7x7", 1)
    assert cell.config.run.root / cell.config.run.name == tmp_path / "runs/toy/grid/7x7-femto_f0.5_e2_s1"
    assert (cell.config.data.shards, cell.config.evaluation.shards) == (
        str(tmp_path / "toy-f0.5-s0"),
        str(tmp_path / "toy"),
    )
    # Half of 48 images, of 5 classes with 10, 10, 10, 9, 9: about 5 each.
    assert abs(cell.train.num_samples - 24) <= 1
    assert cell.num_steps == 2 * (cell.train.num_samples // 4)
    assert cell.images_seen == 4 * cell.num_steps
    assert cell.place == "femto_f0.5_e2"
    assert len({cell.digest for cell in cells}) == 16


def test_each_fraction_may_have_a_length_of_its_own(tmp_path):
    group = GRID | {"families": ["gf"], "sizes": ["atto"], "seeds": [0], "epochs": None, "images_by_fraction": [24, 40]}
    cells = expand_with_shares(make_study(tmp_path, groups={"grid": group}))
    assert {cell.name: (cell.fraction, cell.images_seen) for cell in cells} == {
        "grid/gf-atto_f0.5_i24_s0": (0.5, 24),
        "grid/gf-atto_f1_i40_s0": (1.0, 40),
    }


@pytest.mark.slow
def test_shares_are_made_once_and_lie_inside_one_another(tmp_path):
    study = make_study(tmp_path, groups={"grid": GRID | {"fractions": [0.25, 0.5, 1.0]}})
    before = expand(study)
    assert {cell.digest for cell in before if cell.fraction < 1} == {None}
    make_shares(shares_of(before))
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("toy-f*/*")}
    after = expand(study)
    make_shares(shares_of(after))
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.glob("toy-f*/*")}
    assert len(shares_of(after)) == 2
    assert not list(find_unnested(shares_of(after)))


def test_shares_that_are_not_nested_are_refused(tmp_path):
    study = make_study(tmp_path, groups={"grid": GRID | {"fractions": [0.25, 0.5]}})
    small, large = shares_of(expand(study))
    make_shares([replace(small, seed=1)])  # the small one of another seed, under this one's name
    with pytest.raises(UserError, match=r"toy-f0\.25-s0: \d+ of its images are not in .*toy-f0\.5-s0, so the shares"):
        make_shares([small, large])


@pytest.mark.slow
def test_a_length_in_images_is_the_same_for_every_share(tmp_path):
    grid = {key: value for key, value in GRID.items() if key != "epochs"} | {"images_seen": [80], "warmup_share": 0.1}
    cells = expand_with_shares(make_study(tmp_path, groups={"grid": grid}))
    assert {cell.images_seen for cell in cells} == {80}
    assert {round(cell.config.schedule.warmup_epochs / cell.config.schedule.num_epochs, 6) for cell in cells} == {0.1}


def test_groups_that_ask_for_the_same_thing_share_one_run(tmp_path):
    small = GRID | {"families": ["gf"], "sizes": ["atto"], "fractions": [1.0], "seeds": [0]}
    overrides = [
        *OVERRIDES,
        "model.name=hornet_{size}_{family}",
        "schedule.warmup_epochs=0",
    ]  # the same, said otherwise
    again = small | {"epochs": [2, 3], "overrides": overrides}
    study = make_study(tmp_path, groups={"grid": small, "again": again})
    cells = {cell.name: cell for cell in expand(study)}
    assert cells["again/gf-atto_f1_e2_s0"].run == "grid/gf-atto_f1_e2_s0"
    assert cells["again/gf-atto_f1_e3_s0"].run == "again/gf-atto_f1_e3_s0"
    (study.folder / "again/gf-atto_f1_e2_s0").mkdir(parents=True)  # whoever has begun goes on
    cells = {cell.name: cell for cell in expand(study)}
    assert cells["grid/gf-atto_f1_e2_s0"].run == "again/gf-atto_f1_e2_s0"


@pytest.mark.slow
def test_a_finetuning_starts_from_its_parents_run_and_counts_it_in_its_digest(tmp_path):
    study = make_study(tmp_path, groups={"tuned": TUNED | {"sizes": ["atto"], "seeds": [1]}, "grid": GRID})
    cells = {cell.name: cell for cell in expand_with_shares(study)}
    tuned = [cell for cell in cells.values() if cell.stage == "finetune"]
    assert [cell.key for cell in tuned] == [
        "gf-atto_f0.5_e2_s1", "gf-atto_f1_e2_s1", "7x7-atto_f0.5_e2_s1", "7x7-atto_f1_e2_s1",
    ]  # fmt: skip
    assert tuned[0].config.start.from_ == tmp_path / "runs/toy/grid/gf-atto_f0.5_e2_s1"
    assert tuned[0].parent == "grid/gf-atto_f0.5_e2_s1"
    assert len({cell.digest for cell in tuned}) == 4


@pytest.mark.slow
def test_what_changes_nothing_that_is_learned_leaves_the_digest(tmp_path):
    def digests(*overrides, **sections):
        grid = GRID | {"fractions": [1.0], "overrides": [*GRID["overrides"], *overrides]}
        return [cell.digest for cell in expand(make_study(tmp_path, groups={"grid": grid}, **sections))]

    study = {"name": "other", "root": str(tmp_path / "elsewhere")}
    assert digests("cadence.save_every_steps=7") == digests() == digests(study=study)
    assert not set(digests("schedule.peak_lr=1e-3")) & set(digests())


def test_a_set_whose_content_changed_has_another_digest(tmp_path):
    study = make_study(tmp_path, groups={"grid": GRID | {"fractions": [1.0]}})
    before = {cell.digest for cell in expand(study)}
    path = read_manifest(tmp_path / "toy").path
    values = json.loads(path.read_text())
    values["splits"]["train"]["index_sha256"] = "0" * 64
    path.write_text(json.dumps(values))
    assert not before & {cell.digest for cell in expand(study)}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"fractions": [0.01, 1.0], "overrides": [*GRID["overrides"], "global_batch_size=8", "micro_batch_size=8"]},
            r"groups.grid: 0\.01 of .*/toy is \d images, fewer than one global batch \(8\); use a larger share",
        ),
        (
            {"base": TUNED["base"]},
            "groups.grid: .*finetune.yaml: is the config of a finetuning; name the pretrainings' group with `from`",
        ),
        (
            {"overrides": [*GRID["overrides"], "run.name=x", "run.seed=3"]},
            "groups.grid: run.name: may not be overridden; the study names its runs",
        ),
        (
            {"overrides": ["model.name=hornet_{size}_gf", *OVERRIDES]},
            "groups.grid: gf-atto_.*s0 and 7x7-atto_.*s0 ask for the same run; put {family} or {size} into base",
        ),
        ({"overrides": [*GRID["overrides"], "evaluation=null"]}, "groups.grid: .*: has no evaluation, so nothing"),
        ({"base": "absent/{size}.yaml"}, "groups.grid: cannot be read: No such file or directory"),
        ({"epochs": [-1]}, "groups.grid.epochs: must be above 0, not -1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, change, problem):
    with pytest.raises(ConfigError, match=problem):
        expand(make_study(tmp_path, groups={"grid": GRID | change}))


def test_problems_of_all_groups_come_together_and_once(tmp_path):
    groups = {
        "grid": GRID | {"overrides": [*GRID["overrides"], "zero.stag=1"]},
        "other": GRID | {"fractions": [1.0], "overrides": [*GRID["overrides"], "run.seed=3"]},
        "tuned": TUNED | {"from": "other", "sizes": ["pico"]},
    }
    assert problems_of(tmp_path, groups=groups) == [
        "groups.grid: zero.stag: unknown key; did you mean zero.stage?",
        "groups.other: run.seed: may not be overridden; list `seeds`",
    ]
    groups = {"grid": GRID, "tuned": TUNED | {"sizes": ["pico"]}}
    assert problems_of(tmp_path, groups=groups) == [
        "groups.tuned: none of grid's runs has what its lists name, so it has no runs"
    ]


def test_a_run_cannot_be_both_foretold_and_data_of_the_fit(tmp_path):
    groups = {"grid": GRID, "large": GRID | {"fractions": [1.0], "predict_first": True}}
    problems = problems_of(tmp_path, groups=groups)
    assert problems[0] == (
        "groups.large: gf-atto_f1_e2_s0 is to be foretold, but groups.grid asks for the same run as data of the fit; "
        "take it out of one of the two"
    )


def test_a_set_that_is_not_here_is_refused_unless_its_counts_are_known(tmp_path):
    assert problems_of(tmp_path, data={"source": str(tmp_path / "absent")}) == [
        f"groups.grid: {tmp_path / 'absent'}: there is no set of shards; build it first (launch/shards.py build)"
    ]
    cells = expand(make_study(tmp_path, data={"source": str(tmp_path / "imagenet-1k")}))
    assert {cell.digest for cell in cells} == {None}
    assert {cell.train.num_samples for cell in cells} == {1_281_167, round(1_281_167 / 2)}


def test_a_pretraining_that_is_only_finetuned_needs_no_evaluation(tmp_path):
    grid = GRID | {"overrides": [*GRID["overrides"], "evaluation=null"], "fractions": [1.0]}
    cells = expand(make_study(tmp_path, groups={"grid": grid, "tuned": TUNED}))
    assert {cell.evaluation is None for cell in cells if cell.group == "grid"} == {True}
    assert None not in {cell.digest for cell in cells}


def test_the_study_of_openclipart_has_matched_peers_and_a_size_that_is_foretold(monkeypatch):
    monkeypatch.chdir(ROOT)
    # Its own set is made by commands; one of known size stands in for it here.
    study = read_study(ROOT / "configs/scaling/openclipart.yaml", ["data.source=data/imagenet-1k"])
    cells = {cell.name: cell for cell in expand(study)}
    assert [sum(cell.group == name for cell in cells.values()) for name in study.groups] == [64, 4, 16]
    pair = [cells[f"grid/{family}-pico_f0.5_i19200_s1"] for family in ("gf", "convnext")]
    assert [cell.config.model.name for cell in pair] == ["hornet_pico_gf", "convnext_matched_pico"]
    assert {(cell.place, cell.images_seen, cell.config.schedule.peak_lr) for cell in pair} == {
        ("pico_f0.5_i19200", 19200, 1.5e-3)
    }
    assert all(cell.is_held_out == (cell.size == "nano") for cell in cells.values())
    tuned = cells["at_96/convnext-pico_f1_i25600_s0"]
    assert (tuned.config.data.transform.image_size, tuned.parent) == (96, "grid/convnext-pico_f1_i25600_s0")
    assert all(cell.config.evaluation.per_image for cell in cells.values())
    assert study.config.execution.num_slots == 14


@pytest.mark.parametrize("name", ["hornet_in1k", "hornet_in22k"])
def test_shipped_studies_expand_to_the_papers_rows(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = {cell.name: cell for cell in expand(read_study(ROOT / f"configs/scaling/{name}.yaml"))}
    if name == "hornet_in22k":
        assert len(cells) == 6
        assert cells["at_384/7x7-large_s0"].config.start.from_ == Path("runs/scaling/hornet_in22k/large/7x7-large_s0")
        return
    assert len(cells) == 6 + 18
    # Half of the images, as many seen: 93,600 steps, with the recipe's 20 of 300 epochs of warm-up.
    half = cells["shares/gf-tiny_f0.5_i383385600_s0"]
    assert half.num_steps == 93_600
    whole = cells["table/gf-tiny_s0"].config
    assert half.config.schedule.warmup_epochs / half.config.schedule.num_epochs == pytest.approx(20 / 300, rel=1e-6)
    assert (half.config.schedule.peak_lr, half.config.recipe) == (whole.schedule.peak_lr, whole.recipe)
