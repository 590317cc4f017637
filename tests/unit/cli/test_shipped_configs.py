"""--config finds the configs that come with the package, and names the nearest of one that is not there."""

from pathlib import Path

import pytest

from hornet.cli import configs
from hornet.cli.configs import FOLDER, find_config, list_configs
from hornet.config import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_all_of_the_checkouts_come_with_the_package(capsys, monkeypatch):
    assert list_configs() == sorted(str(path.relative_to(ROOT / "configs")) for path in ROOT.glob("configs/*/*.yaml"))
    monkeypatch.setattr("sys.argv", ["hornet configs"])
    configs.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list_configs())
    (demo,) = (" ".join(line.split()) for line in lines if line.startswith("demo/pretrain.yaml"))
    assert demo.startswith("demo/pretrain.yaml The demo's pretraining: 8x8 digits")


@pytest.mark.parametrize("name", ["demo/pretrain.yaml", "configs/demo/pretrain.yaml", "hornet:demo/pretrain.yaml"])
def test_a_name_finds_the_one_that_comes_with_the_package_and_says_so(name, capsys):
    assert find_config(Path(name)) == FOLDER / "demo/pretrain.yaml"
    said = capsys.readouterr().err
    assert ("taken is hornet:demo/pretrain.yaml" in said) == (not name.startswith("hornet:"))


def test_a_file_comes_before_one_of_the_package(tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/pretrain.yaml").touch()
    assert find_config(Path("demo/pretrain.yaml")) == Path("demo/pretrain.yaml")
    assert find_config(Path("hornet:demo/pretrain.yaml")) == FOLDER / "demo/pretrain.yaml"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("pretrain/hornet_tiny_gf_in1k.yml", r"did you mean pretrain/hornet_tiny_gf_in1k\.yaml\?"),
        ("mine/larg.yaml", r"did you mean mine/large\.yaml\?"),
        ("tiny_gf_in1k.yaml", r"no such file; `hornet configs` lists"),
        ("hornet_tiny_gf_in1k.yaml", r"did you mean pretrain/hornet_tiny_gf_in1k\.yaml\?"),
        ("demo/pretrian.yaml", r"did you mean demo/pretrain\.yaml\?"),
        ("nope.yaml", r"no such file; `hornet configs` lists"),
        ("mine", r"mine: 1 problem\nis a folder; did you mean mine/large\.yaml\?"),
        ("configs/demo", r"is a folder; did you mean demo/finetune\.yaml or demo/instances\.yaml or "),
        ("zzz", r"no such file; `hornet configs` lists"),
    ],
)
def test_one_that_is_not_there_names_the_nearest(given, sentence, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/large.yaml").touch()
    with pytest.raises(ConfigError, match=sentence):
        find_config(Path(given))
