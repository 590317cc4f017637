"""State dicts of other programs in the network's own `load_state_dict`, and through timm's `checkpoint_path=`."""

import copy
from argparse import Namespace

import pytest
import torch
from torch import nn

from hornet.errors import UserError
from hornet.model.state_dicts import plain_names
from tests.unit.model.small_model import build_small


def make_state():
    torch.manual_seed(1)
    return {name: torch.randn_like(tensor) for name, tensor in build_small().state_dict().items()}


def prefix(state, before):
    return {before + name: tensor for name, tensor in state.items()}


LAYOUTS = {
    "module": lambda state: {"module": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "ema": lambda state: {"ema": {"module": prefix(state, "module."), "decay": 0.99}},
    "ema_state_dict": lambda state: {"ema_state_dict": state, "args": Namespace(lr=1.0)},
    "original": lambda state: {"model": state, "model_ema": state, "optimizer": {}, "args": Namespace(lr=1.0)},
    "lightning": lambda state: {"state_dict": prefix(state, "model."), "epoch": 1},
    "compiled": lambda state: prefix(state, "_orig_mod."),
    "distributed and compiled": lambda state: {"model": prefix(state, "module._orig_mod.")},
    "backbone": lambda state: {"state_dict": prefix(state, "backbone.")},
    "counters": lambda state: {"model": state | {"total_ops": torch.zeros(1), "stages.0.total_params": torch.zeros(1)}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoint_path_takes_what_other_programs_write(layout, tmp_path):
    state = make_state()
    torch.save(LAYOUTS[layout](state), tmp_path / "x.pth")
    loaded = build_small(checkpoint_path=str(tmp_path / "x.pth")).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_raw_and_averaged_weights_are_not_chosen_from_in_silence():
    state = make_state()
    with pytest.raises(UserError, match="holds raw weights under module and averaged ones under ema"):
        build_small().load_state_dict({"module": state, "ema": state})


def test_a_misfit_is_still_an_error():
    state = make_state()
    with pytest.raises(RuntimeError, match=r"Missing key.*norm\.bias"):
        build_small().load_state_dict({name: tensor for name, tensor in state.items() if name != "norm.bias"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*norm\.other"):
        build_small().load_state_dict(state | {"norm.other": torch.zeros(1)})


def test_what_is_loaded_is_left_as_it_was():
    state = prefix(make_state(), "module.")
    names = list(state)
    build_small().load_state_dict(state)
    assert list(state) == names


def test_a_network_within_another_keeps_its_names():
    outer = nn.ModuleDict({"backbone": build_small()})
    state = copy.deepcopy(outer.state_dict())
    assert outer.load_state_dict(state).missing_keys == []
    assert all(name.startswith("backbone.") for name in state)


def test_own_names_are_returned_as_they_are():
    state = make_state()
    plain, remarks = plain_names(state)
    assert plain is state
    assert remarks == []


def test_a_head_outside_the_backbone_is_kept():
    state = make_state()
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    trunk = prefix({name: tensor for name, tensor in state.items() if name not in head}, "backbone.")
    plain, remarks = plain_names(trunk | head | {"neck.weight": torch.zeros(1)})
    assert plain.keys() == state.keys()
    assert remarks == ["1 tensors beside the backbone (neck)"]


@pytest.mark.parametrize("names", [["module.stem.weight", "module.module."], ["model.a", "b"], ["", "module."]])
def test_names_that_no_network_of_ours_has_stay(names):
    state = dict.fromkeys(names, torch.zeros(1))
    assert plain_names(state) == (state, [])
