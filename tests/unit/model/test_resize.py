import pytest
import torch

from hornet.model.global_filter import resize_filter
from hornet.model.hornet import HorNet
from hornet.model.resize import get_filter_grids, resize_filters


def build_model(img_size: int) -> HorNet:
    return HorNet(width=8, depths=(1, 1, 2, 1), filter_stages=(2, 3), img_size=img_size, num_classes=5)


def test_grids_of_a_model_are_listed_by_state_dict_name() -> None:
    assert get_filter_grids(build_model(96)) == {
        "stages.2.0.gnconv.dwconv.complex_weight": (6, 4),
        "stages.2.1.gnconv.dwconv.complex_weight": (6, 4),
        "stages.3.0.gnconv.dwconv.complex_weight": (3, 2),
    }


def test_a_resized_state_dict_loads_and_computes_what_the_small_model_does_at_the_larger_size() -> None:
    small, large = build_model(64).eval(), build_model(96).eval()
    resized = resize_filters(small.state_dict(), grids=get_filter_grids(large))
    large.load_state_dict(resized)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(large(images), small(images))


def test_filters_are_resampled_and_all_else_is_the_same_tensor() -> None:
    state_dict = build_model(64).state_dict()
    grids = get_filter_grids(build_model(96))
    resized = resize_filters(state_dict, grids=grids)
    assert list(resized) == list(state_dict)
    for name, tensor in state_dict.items():
        if name in grids:
            assert torch.equal(resized[name], resize_filter(tensor, grids[name]))
        else:
            assert resized[name] is tensor


def test_nothing_is_touched_when_the_grids_agree() -> None:
    model = build_model(64)
    state_dict = model.state_dict()
    resized = resize_filters(state_dict, grids=get_filter_grids(model))
    assert all(resized[name] is tensor for name, tensor in state_dict.items())


def test_dtypes_are_kept_and_low_precision_is_resampled_in_float32() -> None:
    weight = torch.randn(4, 7, 4, 2).bfloat16()
    resized = resize_filters({"complex_weight": weight}, grids={"complex_weight": (12, 7)})["complex_weight"]
    assert resized.dtype is torch.bfloat16
    assert torch.equal(resized, resize_filter(weight.float(), (12, 7)).bfloat16())


def test_names_missing_in_the_state_dict_are_left_to_the_loader() -> None:
    assert resize_filters({}, grids={"complex_weight": (2, 2)}) == {}


def test_something_that_is_no_filter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has shape \(4, 7, 4\), but a filter is \(channels, h, w, 2\)"):
        resize_filters({"a.complex_weight": torch.zeros(4, 7, 4)}, grids={"a.complex_weight": (12, 7)})
