"""Checkpoints from strangers, weights from files, and heads for other classes."""

import dataclasses
import os

import pytest
import timm
import torch
from safetensors.torch import save_file

import hornet  # noqa: F401  registers the models
from finetune.start import fit_weights
from hornet.errors import UserError
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.model.global_filter import resize_filter
from hornet.model.resize import choose_resize, get_filter_grids
from hornet.shards.label_space import LabelSpace, number_classes
from hornet.stages.pretrained import Pretrained, read_pretrained, tell_normalising
from hornet.training.engines.deepspeed_files import load_shard


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("read", [load_shard, lambda path: read_pretrained(path, weights="raw", label_space=None)])
def test_a_file_with_code_is_refused_and_not_run(tmp_path, read):
    path = tmp_path / "x.pt"
    torch.save({"module": Bomb(tmp_path / "exploded")}, path)
    with pytest.raises(UserError, match=r"x\.pt.*refused"):
        read(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_cut_file_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match=name):
        read_pretrained(path, weights="raw", label_space=None)


def make_model(num_classes, image_size=32):
    torch.manual_seed(0)
    return timm.create_model("hornet_atto_gf", num_classes=num_classes, img_size=image_size)


def space(*classes, name="s"):
    return LabelSpace(name=name, classes=classes)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", None])
def test_weight_files_of_every_layout_are_read(tmp_path, wrapper):
    model = make_model(3)
    state = model.state_dict()
    path = tmp_path / ("x.pth" if wrapper else "x.safetensors")
    torch.save({wrapper: state}, path) if wrapper else save_file(state, path)
    start = read_pretrained(path, weights="raw", label_space=None)
    assert start.state_dict.keys() == state.keys()
    assert all(torch.equal(start.state_dict[name], state[name]) for name in state)


def start_of(model, label_space):
    return Pretrained(state_dict=model.state_dict(), label_space=label_space, description={}, source="there")


def test_the_head_follows_the_class_names():
    source, target = make_model(3), make_model(4)
    with torch.no_grad():
        source.head.weight.copy_(torch.arange(3.0)[:, None].expand_as(source.head.weight))
        source.head.bias.copy_(torch.arange(3.0))
    fresh = target.head.weight.detach().clone()
    classes = space("c", "x", "a", "b", name="t")
    report = fit_weights(start_of(source, space("a", "b", "c")), target, label_space=classes)
    assert target.head.weight[[0, 2, 3], 0].tolist() == [2, 0, 1]
    assert target.head.bias[[0, 2, 3]].tolist() == [2, 0, 1]
    assert torch.equal(target.head.weight[1], fresh[1])
    assert report[-1] == "head: 3 of 4 rows mapped by class name from 's'; fresh rows for x"
    assert torch.equal(target.downsample_layers[0][0].weight, source.downsample_layers[0][0].weight)


def test_other_numbers_to_normalise_by_than_the_start_s_are_told():
    half, start = (0.5, 0.5, 0.5), start_of(make_model(3), None)
    assert tell_normalising(start, mean=half, std=half, key="mixing.") == [], "a weight file does not say"
    start = dataclasses.replace(start, description={"mean": [0.5] * 3, "std": [0.5, 0.5, 0.25]})
    assert tell_normalising(start, mean=half, std=(0.5, 0.5, 0.25), key="") == []
    [line] = tell_normalising(start, mean=half, std=half, key="mixing.")
    assert line == (
        "images: normalised by mixing.mean=[0.5, 0.5, 0.5] and mixing.std=[0.5, 0.5, 0.5], while the start learned "
        "from images normalised by [0.5, 0.5, 0.5] and [0.5, 0.5, 0.25], which its weights fit"
    )


@pytest.mark.parametrize(
    ("source_space", "message"),
    [
        (None, "replaced by a fresh one of 2 classes, since the label space of the start is not known"),
        (space("x", "y", "z"), "replaced by a fresh one, no class of 't' is in 's'"),
    ],
)
def test_an_unknown_or_foreign_head_is_replaced(source_space, message):
    source, target = make_model(3), make_model(2)
    fresh = target.head.weight.detach().clone()
    report = fit_weights(start_of(source, source_space), target, label_space=space("a", "b", name="t"))
    assert message in report[-1]
    assert torch.equal(target.head.weight, fresh)


def test_filters_are_resized_to_the_new_grid():
    source, target = make_model(2, image_size=32), make_model(2, image_size=96)
    report = fit_weights(start_of(source, space("a", "b")), target, label_space=space("a", "b"))
    assert "filters: 8 resized" in report[1]


def test_filters_are_resized_by_frequencies_where_the_network_says_so():
    source, target = make_model(2, image_size=32), make_model(2, image_size=96)
    choose_resize(target, "spectral")
    report = fit_weights(start_of(source, space("a", "b")), target, label_space=space("a", "b"))
    assert "filters: 8 resized to the grids of the new image size by their frequencies" in report[1]
    name, grid = next(iter(get_filter_grids(target).items()))
    expected = resize_filter(source.state_dict()[name], grid, how="spectral")
    assert torch.equal(target.state_dict()[name], expected)


def test_mapped_rows_keep_their_values_whatever_the_scale_of_the_fresh_ones():
    config = ModelConfig(name="hornet_atto_gf", head_init_scale=0.001)
    source, target = make_model(2), build_model(config, num_classes=3, image_size=32, seed=0)
    fit_weights(start_of(source, space("a", "b")), target, label_space=space("a", "b", "x", name="t"))
    assert torch.equal(target.head.weight[:2], source.head.weight)
    assert 0 < target.head.weight[2].abs().max() < 1e-3


def test_weights_of_another_network_are_refused():
    other = timm.create_model("hornet_femto_gf", num_classes=2, img_size=32)
    with pytest.raises(UserError, match=r"there: does not fit the model: \d+ parameters are of another shape"):
        fit_weights(start_of(other, space("a", "b")), make_model(2), label_space=space("a", "b"))


def test_a_label_space_of_another_size_than_the_head_is_refused():
    with pytest.raises(UserError, match="has 2 classes, the head of there 3 rows"):
        fit_weights(start_of(make_model(3), space("a", "b")), make_model(3), label_space=space("a", "b", "c"))


def test_a_weight_file_has_no_averages(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(make_model(2).state_dict(), path)
    with pytest.raises(UserError, match="holds one kind of weights"):
        read_pretrained(path, weights="ema", label_space=None)


def test_weights_without_a_head_get_a_fresh_one():
    source, target = make_model(3), make_model(2)
    start = start_of(source, space("a", "b", "c"))
    bare = {name: tensor for name, tensor in start.state_dict.items() if not name.startswith("head.")}
    fresh = target.head.weight.detach().clone()
    report = fit_weights(dataclasses.replace(start, state_dict=bare), target, label_space=space("a", "b"))
    assert report[-1] == "head: a fresh one of 2 classes, since there holds none"
    assert torch.equal(target.head.weight, fresh)


def test_a_head_of_unknown_meaning_is_guessed_by_its_rows():
    source = make_model(10_459)
    report = fit_weights(start_of(source, None), make_model(2), label_space=space("a", "b"))
    assert "(label spaces of 10459 classes: hornet-22k)" in report[-1]
    with pytest.raises(UserError, match=r"'s' has 2 classes, the head of there 10459 rows \(label spaces of 10459"):
        fit_weights(start_of(source, space("a", "b")), make_model(2), label_space=space("a", "b", "c"))


def test_numbered_classes_are_not_taken_for_names():
    source, target = make_model(3), make_model(2)
    fresh = target.head.weight.detach().clone()
    report = fit_weights(start_of(source, number_classes(3)), target, label_space=number_classes(2))
    assert report[-1] == (
        "head: replaced by a fresh one, the classes of 'numbered' are not known; index its set again with "
        "`--classes NAME|FILE`"
    )
    assert torch.equal(target.head.weight, fresh)


def test_numbered_classes_of_one_set_keep_their_head():
    source, target = make_model(3), make_model(3)
    with torch.no_grad():
        source.head.weight.fill_(7)
    report = fit_weights(start_of(source, number_classes(3)), target, label_space=number_classes(3))
    assert report[-1] == "head: kept, both label spaces are 'numbered'"
    assert (target.head.weight == 7).all()


def test_the_label_space_of_a_weight_file_may_be_named(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(make_model(2).state_dict(), path)
    assert len(read_pretrained(path, weights="raw", label_space="hornet-22k").label_space) == 10_459
    with pytest.raises(UserError, match=r"'hornet-22' is neither .* \(did you mean hornet-22k\?\)"):
        read_pretrained(path, weights="raw", label_space="hornet-22")
