"""How weights are evaluated by themselves: as the run did, or as the original evaluates; what was used is said."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hornet.cli import evaluate as command
from hornet.config import ConfigError, load_config, to_yaml
from hornet.data.config import MixingConfig
from hornet.errors import UserError
from hornet.shards.label_space import LabelSpace
from hornet.stages.evaluation import Evaluated, Row
from hornet.stages.pretrained import describe_usual
from hornet.stages.result_place import find_place
from hornet.stages.results import write_results
from hornet.training.checkpoints.foreign import ZIP
from hornet.training.evaluate import Evaluation
from hornet.training.measures import Calibration, ClassCount, Confusion, Measurement
from pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[3]
SET = {"set_name": "digits", "set_fingerprint": "a" * 64}
OTHER_SET = {**SET, "set_fingerprint": "b" * 64}
RESULT = {"top1": 50.0, "top5": 100.0, "loss": 1.5, "num_images": 4, "num_bad_images": 0}


def read(source, *overrides):
    return command.read_config(source, config=None, overrides=list(overrides))


def write_run(folder, *overrides, config="demo/pretrain", config_class=PretrainConfig):
    folder.mkdir()
    (folder / "config.yaml").write_text(
        to_yaml(load_config(config_class, path=ROOT / f"configs/{config}.yaml", overrides=list(overrides)))
    )
    return folder


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_run_is_evaluated_as_it_evaluates(tmp_path, precision):
    run = write_run(tmp_path / "r", f"zero.precision={precision}", "evaluation.crop_fraction=0.9")
    found = read(run)
    assert (found.precision, found.evaluation.crop_fraction, found.evaluation.image_size) == (precision, 0.9, 48)
    assert read(run, "precision=fp32").precision == "fp32"
    inside = run / "checkpoints/step_00000040"
    inside.mkdir(parents=True)
    assert read(inside).precision == precision


def test_a_finetuning_says_its_precision_elsewhere(tmp_path):
    from finetune.config import FinetuneConfig

    run = write_run(tmp_path / "r", "precision=bf16", config="demo/finetune", config_class=FinetuneConfig)
    assert read(run).precision == "bf16"


def test_a_run_that_evaluates_nothing_says_its_size(tmp_path):
    run = write_run(tmp_path / "r", "evaluation=null")
    found = read(run, "evaluation.shards=s")
    assert (found.evaluation.image_size, found.evaluation.crop_fraction) == (48, 0.875)


@pytest.mark.parametrize(
    ("overrides", "image_size", "crop_fraction"),
    [
        (["model=hornet_tiny_gf"], 224, 0.875),
        (["model=hornet_large_gf_img384"], 384, None),
        (["model=hornet_large_gf", "evaluation.image_size=384"], 384, None),
        (["model=hornet_large_gf", "evaluation.image_size=512"], 512, None),
        (["model=hornet_large_gf", "evaluation.image_size=320"], 320, 0.875),
        (["model=hornet_large_gf_img384", "evaluation.crop_fraction=1.0"], 384, 1.0),
        (["model=hornet_tiny_gf", "evaluation.crop_fraction=null"], 224, None),
    ],
)
def test_a_weight_file_is_evaluated_as_the_original_evaluates(tmp_path, overrides, image_size, crop_fraction):
    file = tmp_path / "w.pth"
    file.write_bytes(ZIP)
    found = read(file, "evaluation.shards=s", *overrides)
    assert (found.precision, found.evaluation.image_size, found.evaluation.crop_fraction) == (
        "fp32",
        image_size,
        crop_fraction,
    )


def test_weights_of_timm_that_want_other_images_are_told_of():
    usual = MixingConfig()
    assert describe_usual("hornet_tiny_gf", usual) is None
    assert describe_usual("swin_tiny_patch4_window7_224", usual) is None
    assert describe_usual("a_network_of_ones_own", usual) is None
    told = describe_usual("vit_base_patch16_224", usual)
    assert told == (
        "images are normalised by mean=[0.485, 0.456, 0.406] and std=[0.229, 0.224, 0.225]; if these are weights of "
        "timm's, they want mixing={mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
    )
    half = (0.5, 0.5, 0.5)
    assert describe_usual("vit_base_patch16_224", MixingConfig(mean=half, std=half)) is None


def make_row(*, loss=1.5, top1=50.0, **values):
    measurement = Measurement(
        evaluation=Evaluation(**{**RESULT, "loss": loss, "top1": top1}),
        calibration=Calibration(error=0.125, counts=(0, 4), hits=(0, 2), confidences=(0.0, 2.5)),
        classes=(
            ClassCount(label=0, num_images=1, top1=1, top5=1),
            ClassCount(label=1, num_images=3, top1=1, top5=3),
        ),
        confusions=(Confusion(label=1, predicted=0, count=2),),
        multi_label=None,
    )
    row = {"weights": "raw", "corruption": None, "image_size": 384, "crop_fraction": None, **values}
    return Row(**row, measurement=measurement)


def make_evaluated(*rows, **values):
    space = LabelSpace(name="pets", classes=("cat", "dog"))
    found = {"model": "m", "sources": {"raw": "x"}, "judged": space, "missing": (), "step": 40, **SET, **values}
    return Evaluated(rows=rows, **found)


def report(tmp_path, monkeypatch, *rows, as_json=False, overrides=()):
    file = tmp_path / "w.pth"
    file.write_bytes(ZIP)
    config = read(file, "evaluation.shards=s", "model=hornet_large_gf_img384", *overrides)
    space = LabelSpace(name="pets", classes=("n01440764", "a|b"))
    found = make_evaluated(*rows, model="hornet_large_gf_img384", sources={"raw": str(file)}, judged=space, step=None)
    monkeypatch.setattr("hornet.stages.evaluation.evaluate_weights", lambda config, world: found)
    command.report(config, as_json=as_json)


def test_what_was_used_is_printed(tmp_path, monkeypatch, capsys):
    report(tmp_path, monkeypatch, make_row())
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.endswith("(raw weights) on s, split validation; 384 pixels, warped whole, bicubic, computed in fp32")
    assert second == "  top-1 50.00 %, top-5 100.00 %, loss 1.5000 on 4 images; calibration error 12.50 %"
    overrides = ["precision=bf16", "evaluation.crop_fraction=0.9"]
    report(tmp_path, monkeypatch, make_row(), overrides=overrides)
    assert "384 pixels, centre crop of 0.9, bicubic, computed in bf16" in capsys.readouterr().out


@pytest.mark.parametrize("loss", [1.5, math.nan, math.inf])
def test_json_is_json_and_a_loss_that_is_not_finite_is_said(tmp_path, monkeypatch, capsys, loss):
    report(tmp_path, monkeypatch, make_row(loss=loss), as_json=True)
    printed = capsys.readouterr()

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(printed.out, parse_constant=refuse)
    assert (found["precision"], found["interpolation"]) == ("fp32", "bicubic")
    (row,) = found["results"]
    expected = {**RESULT, "image_size": 384, "crop_fraction": None, "weights": "raw"}
    assert row.items() >= {**expected, "loss": loss if math.isfinite(loss) else None}.items()
    assert "classes" not in row
    assert ("the loss is not finite: the network's output" in printed.err) == (not math.isfinite(loss))


def test_everything_is_written_where_it_was_asked_for(tmp_path, monkeypatch, capsys):
    rows = (make_row(), make_row(image_size=224, crop_fraction=0.875, top1=75.0))
    report(tmp_path, monkeypatch, *rows, overrides=[f"output={tmp_path / 'out'}", "sizes=[384,224]"])
    assert f"written to {tmp_path / 'out'}" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    first = found["results"][0]
    assert first["confusions"] == [{"label": "a|b", "predicted": "n01440764", "count": 2}]
    assert first["classes"][1] == {"label": 1, "name": "a|b", "num_images": 3, "top1": 1, "top5": 3}
    assert first["mean_class_top1"] == 100 * (1 + 1 / 3) / 2, "each class counts once, whatever its images"
    page = (tmp_path / "out/evaluation.md").read_text().splitlines()
    assert "| raw | 224 | 0.875 | 75.000 | 100.000 | 1.5000 | 12.50 | 66.667 | 4 |" in page
    assert "| a\\|b | n01440764 tench, Tinca tinca | 2 |" in page
    figure = ElementTree.fromstring((tmp_path / "out/evaluation.svg").read_text())
    assert figure.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [title.text for title in figure.iter("{http://www.w3.org/2000/svg}title")]
    assert "raw weights, warped, 384 pixels: 50.000 %" not in titles, "one size with each crop is no sweep"
    assert titles.count("4 images") == 1


def test_a_sweep_is_a_curve(tmp_path, monkeypatch):
    rows = (make_row(image_size=224), make_row(image_size=288, top1=75.0))
    report(tmp_path, monkeypatch, *rows, overrides=[f"output={tmp_path / 'out'}"])
    figure = (tmp_path / "out/evaluation.svg").read_text()
    assert "raw weights, warped, 288 pixels: 75.000 %" in figure
    assert "Top-1 in percent over pixels" in figure


def write(config, *, top1=50.0, **values):
    """Write an evaluation as the command does, and return its folder within the run."""
    place = find_place(config, make_evaluated(make_row(top1=top1), **values))
    write_results(config, make_evaluated(make_row(top1=top1), **values), place)
    return str(place.folder.relative_to(config.source))


def read_top1(path):
    return json.loads((path / "evaluation.json").read_text())["results"][0]["top1"]


def test_a_run_has_its_evaluations_by_the_name_of_the_set(tmp_path):
    run = write_run(tmp_path / "r")
    assert write(read(run)) == "evaluations/digits_validation"
    config = read(run, "judge={by_name: true, subset: imagenet-r}")
    assert write(config) == "evaluations/digits_validation_imagenet-r"
    config = read(run, "judge={by_name: true, subset: /lists/fish.txt}")
    assert write(config) == "evaluations/digits_validation_fish.txt"
    assert write(read(run), **{**SET, "set_name": "../a/b"}) == "evaluations/.._a_b_validation"
    (run / "checkpoints/step_00000040").mkdir(parents=True)
    inside = read(run / "checkpoints/step_00000040")
    assert find_place(inside, make_evaluated(make_row())).folder == run / "evaluations/digits_validation"
    file = tmp_path / "w.pth"
    file.write_bytes(ZIP)
    assert find_place(read(file, "model=hornet_tiny_gf", "evaluation.shards=s"), make_evaluated(make_row())) is None


def test_another_set_of_the_same_name_has_a_folder_of_its_own(tmp_path):
    run = write_run(tmp_path / "r")
    names = [write(read(run), top1=top1, **values) for top1, values in ((50.0, SET), (60.0, OTHER_SET), (70.0, SET))]
    assert names == [f"evaluations/digits{mark}_validation" for mark in ("", "-bbbbbbbb", "")]
    assert [read_top1(run / name) for name in names[:2]] == [70.0, 60.0], "the same question replaces its own answer"
    assert write(read(run), top1=80.0, **OTHER_SET) == names[1]


QUESTIONS = ("weights=both", "sizes=[48,64]", "corruptions=true", "probe={}", "precision=bf16", "num_confusions=3")


def test_another_question_leaves_the_answers_to_others_alone(tmp_path):
    run = write_run(tmp_path / "r")
    asked = [(), *((question,) for question in QUESTIONS)]
    names = [write(read(run, *overrides), top1=float(number)) for number, overrides in enumerate(asked)]
    assert names[:3] == [f"evaluations/digits_validation{mark}" for mark in ("", "-2", "-3")]
    assert [read_top1(run / name) for name in names] == list(range(len(asked)))
    again = [write(read(run, *overrides), top1=50.0 + number) for number, overrides in enumerate(asked)]
    assert again == names
    assert [read_top1(run / name) for name in names] == [50.0 + number for number in range(len(asked))]
    how_it_is_read = ("evaluation.num_workers=2", "evaluation.batch_size=7", "evaluation.shards=/a/copy")
    assert write(read(run, *how_it_is_read)) == names[0]


def test_weights_of_another_step_leave_those_of_an_earlier_one_alone(tmp_path):
    run = write_run(tmp_path / "r")
    (run / "tensorboard").mkdir()
    names = [write(read(run), top1=float(step), step=step) for step in (40, 80)]
    assert names == ["evaluations/digits_validation", "evaluations/digits_validation-2"]
    assert [read_top1(run / name) for name in names] == [40.0, 80.0]
    other = write(read(run, "crops=[null]"), top1=1.0, step=80)
    assert other == "evaluations/digits_validation-3"
    points = {folder.name: read_board(folder) for folder in (run / "tensorboard/evaluations").iterdir()}
    assert points["digits_validation"]["top1/raw, 384 pixels, warped"] == [(40, 40.0), (80, 80.0)], "one curve"
    assert points["digits_validation-3"]["top1/raw, 384 pixels, warped"] == [(80, 1.0)]
    assert len(points) == 2


def test_what_an_earlier_release_or_a_damaged_disk_left_stays(tmp_path):
    run = write_run(tmp_path / "r")
    for name, text in (("digits_validation", '{"results": []}'), ("digits-aaaaaaaa_validation", "{")):
        (run / "evaluations" / name).mkdir(parents=True)
        (run / "evaluations" / name / "evaluation.json").write_text(text)
    assert write(read(run)) == "evaluations/digits-aaaaaaaa_validation-2"
    assert (run / "evaluations/digits_validation/evaluation.json").read_text() == '{"results": []}'
    (run / "evaluations/empty_validation").mkdir()
    assert write(read(run), **{**SET, "set_name": "empty"}) == "evaluations/empty_validation"


def test_a_folder_that_was_asked_for_and_holds_another_evaluation_is_left_alone(tmp_path, monkeypatch):
    output = f"output={tmp_path / 'out'}"
    report(tmp_path, monkeypatch, make_row(), overrides=[output])
    report(tmp_path, monkeypatch, make_row(top1=75.0), overrides=[output])
    assert read_top1(tmp_path / "out") == 75.0, "the same question"
    for override in ("sizes=[384,224]", "evaluation.shards=/another/set"):
        with pytest.raises(UserError) as caught:
            report(tmp_path, monkeypatch, make_row(), overrides=[output, override])
        assert str(caught.value) == (
            f"output: {tmp_path / 'out'} holds another evaluation, of {tmp_path / 'w.pth'} on s; "
            "name another folder, or remove that one"
        )
    assert read_top1(tmp_path / "out") == 75.0


def read_board(folder):
    board = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def test_a_runs_tensorboard_shows_its_evaluations_at_the_step_of_the_weights(tmp_path):
    """Beside the run's own files, in which what comes later is hidden when the run goes on."""
    run = write_run(tmp_path / "r")
    (run / "tensorboard").mkdir()
    rows = [make_row(), make_row(image_size=224, crop_fraction=0.875, top1=75.0)]
    rows += [make_row(corruption=f"fog/{severity}", top1=20.0) for severity in range(1, 6)]
    found, config = make_evaluated(*rows), read(run)
    write_results(config, found, find_place(config, found))
    values = read_board(run / "tensorboard/evaluations/digits_validation")
    assert values["top1/raw, 384 pixels, warped"] == [(40, 50.0)]
    assert values["calibration_error/raw, 224 pixels, crop 0.875"] == [(40, 12.5)]
    assert values["corruption_error/raw, 384 pixels, warped"] == [(40, 80.0)]
    assert not any(name.startswith("mce") for name in values)
    config = read(run, f"output={tmp_path / 'elsewhere'}")
    write_results(config, found, find_place(config, found))
    assert len(list(run.rglob("events.*"))) == 1, "a folder outside of the run has no board"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match=r"output: .*out cannot be written \(File exists\); name another folder"):
        report(tmp_path, monkeypatch, make_row(), overrides=[f"output={tmp_path / 'out'}"])


def test_a_config_goes_over_the_runs_own_section(tmp_path):
    run = write_run(tmp_path / "r", "evaluation.crop_fraction=0.9")
    (tmp_path / "e.yaml").write_text("evaluation: {shards: other, batch_size: 7}\n")
    data = command.read_config(run, config=tmp_path / "e.yaml", overrides=[]).evaluation
    assert (str(data.shards), data.batch_size, data.image_size, data.crop_fraction) == ("other", 7, 48, 0.9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sizes=[224,16]", "sizes: must be at least 32 pixels, .* not 16"),
        ("sizes=[224,224]", "sizes: names 224 twice"),
        ("crops=[null,1.5]", r"crops: must be over 0 and at most 1, or null, not 1\.5"),
        ("calibration_bins=0", "calibration_bins: must be at least 1, not 0"),
        ("num_confusions=-1", "num_confusions: must be 0 or more, not -1"),
        ("probe.split=validation", "probe.split: is validation, which is evaluated; an image would be its own"),
        ("probe.neighbours=[]", "probe.neighbours: must name at least one number, each at least 1, not "),
        ("probe.neighbours=[10,0]", r"probe.neighbours: .* not \[10, 0\]"),
        ("probe.temperature=0", "probe.temperature: must be above 0, not 0"),
        ("probe.linear_l2=[0,-1]", "probe.linear_l2: must be 0 or more, not -1"),
        ("judge.subset=imagenet-a", r"judge\.subset: imagenet-a needs by_name=true"),
    ],
)
def test_bad_settings_are_named(tmp_path, override, message):
    file = tmp_path / "w.pth"
    file.write_bytes(ZIP)
    with pytest.raises(ConfigError, match=message):
        read(file, "evaluation.shards=s", "model=hornet_tiny_gf", override)


def test_a_probe_has_no_meaning_with_corruptions(tmp_path):
    run = write_run(tmp_path / "r")
    with pytest.raises(ConfigError, match="probe: has no meaning with corruptions, whose sets have no split"):
        read(run, "corruptions=true", "probe={}")


def test_the_help_names_the_keys():
    text = command.EPILOG
    assert "precision" in text
    assert "evaluation.crop_fraction=null" in text
