"""The short runs of the certificate: what of a config they keep."""

from pathlib import Path

import pytest

from hornet.cli.verify_resume import read_config, shorten

ROOT = Path(__file__).resolve().parents[3]
BEST = ["checkpoints.best=true", "cadence.save_every_steps=50"]


@pytest.mark.parametrize("name", ["segmentation", "instances"])
def test_a_dense_config_is_started_by_its_script_and_shortened_in_steps(name, tmp_path):
    script, config = read_config(ROOT / f"configs/demo/{name}.yaml", ["start.from=runs/x", *BEST])
    assert script.stage == "dense"
    short = shorten(config, num_steps=12, folder=tmp_path)
    assert (short.schedule.num_steps, short.schedule.warmup_steps, short.cadence.save_every_steps) == (12, 3, 3)
    assert (short.evaluation, short.checkpoints.best) == (None, False), "there is nothing to be the best by"
    assert short.run.root == tmp_path
    assert (short.model, short.start, short.data) == (config.model, config.start, config.data)


@pytest.mark.parametrize(("drops", "of_12"), [("[300]", (9,)), ("[1,300,301,399]", (9, 11)), ("[]", ())])
def test_a_staircase_has_its_steps_where_they_fall(drops, of_12, tmp_path):
    _, config = read_config(ROOT / "configs/demo/instances.yaml", [f"schedule.drop_steps={drops}"])
    assert shorten(config, num_steps=12, folder=tmp_path).schedule.drop_steps == of_12
