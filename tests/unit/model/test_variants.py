from itertools import pairwise

import pytest
import timm
import torch

import hornet  # noqa: F401 (registers the models)
from hornet.model.cost import count_parameters
from hornet.model.hornet import HorNet
from hornet.model.sizes import VARIANTS

# facts/paper.md, sections 1.1 and 1.2, in millions with three digits; the golden layout gives T and S-GF to the last.
PARAMETERS_IN_MILLIONS = [
    ("hornet_tiny_7x7", 1000, 22.410),
    ("hornet_tiny_gf", 1000, 22.992),
    ("hornet_small_7x7", 1000, 49.528),
    ("hornet_small_gf", 1000, 50.402),
    ("hornet_base_7x7", 1000, 87.257),
    ("hornet_base_gf", 1000, 88.421),
    ("hornet_large_7x7", 1000, 194.543),
    ("hornet_large_7x7", 10_459, 209.081),
    ("hornet_large_7x7", 21_841, 226.575),
    ("hornet_large_gf", 1000, 196.290),
    ("hornet_large_gf", 10_459, 210.828),
    ("hornet_large_gf", 21_841, 228.322),
    ("hornet_large_gf_img384", 1000, 201.807),
    ("hornet_large_gf_img384", 10_459, 216.345),
    ("hornet_large_gf_img384", 21_841, 233.839),
]
# Parameters of the global filters alone, in millions (facts/paper.md, section 1.1).
FILTERS_IN_MILLIONS = [
    ("hornet_tiny_gf", 1.023),
    ("hornet_small_gf", 1.535),
    ("hornet_base_gf", 2.046),
    ("hornet_large_gf", 3.070),
    ("hornet_base_gf_img384", 5.725),
    ("hornet_large_gf_img384", 8.587),
]


def build_on_meta(name: str, **arguments: object) -> HorNet:
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    assert isinstance(model, HorNet)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_classes", "millions"), PARAMETERS_IN_MILLIONS)
def test_parameter_counts_equal_the_table(name: str, num_classes: int, millions: float) -> None:
    assert round(count_parameters(build_on_meta(name, num_classes=num_classes)) / 1e6, 3) == millions


@pytest.mark.slow
@pytest.mark.parametrize(("name", "millions"), FILTERS_IN_MILLIONS)
def test_filter_parameters_equal_the_table(name: str, millions: float) -> None:
    filters = [p for key, p in build_on_meta(name).named_parameters() if key.endswith("complex_weight")]
    assert sum(p.numel() for p in filters) / 1e6 == pytest.approx(millions, abs=6e-4)


def count_by_hand(*, width: int, filter_side: int, num_classes: int) -> int:
    """The paper's network in closed form; `filter_side` is stage 3's grid, 14 at 224 pixels, or 0 for 7x7."""
    total = width * (3 * 16 + 1) + 2 * width
    for stage, depth in enumerate((2, 3, 18, 2)):
        c = width * 2**stage
        gates = [c // 2**i for i in range(stage + 2)]
        spatial = sum(gates)
        mixers = sum(wide * narrow + wide for wide, narrow in pairwise(gates))
        if filter_side and stage >= 2:
            side = filter_side // 2 ** (stage - 2)
            depthwise = spatial // 2 * (9 + side * (side // 2 + 1) * 2) + 4 * spatial
        else:
            depthwise = spatial * (49 + 1)
        projections = (2 * c * c + 2 * c) + (c * c + c)
        feed_forward = 2 * 4 * c * c + 5 * c
        total += depth * (mixers + depthwise + projections + feed_forward + 2 * 2 * c + 2 * c)
        if stage:
            total += 2 * (c // 2) + c * (c // 2) * 4 + c
    return total + 2 * 8 * width + (8 * width + 1) * num_classes


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [1000, 10_459, 21_841])
@pytest.mark.parametrize(("size", "width"), [("tiny", 64), ("small", 96), ("base", 128), ("large", 192)])
def test_parameter_counts_are_exact(size: str, width: int, num_classes: int) -> None:
    sides = {"7x7": 0, "gf": 14} | ({"gf_img384": 24} if size in ("base", "large") else {})
    for kind, side in sides.items():
        model = build_on_meta(f"hornet_{size}_{kind}", num_classes=num_classes)
        assert count_parameters(model) == count_by_hand(width=width, filter_side=side, num_classes=num_classes), kind


def test_all_promised_names_are_registered() -> None:
    sizes = ["zepto", "atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge", "huge"]
    promised = {f"hornet_{size}_{kind}" for size in sizes for kind in ("7x7", "gf")}
    promised |= {"hornet_base_gf_img384", "hornet_large_gf_img384"}
    promised |= {f"hornet_isotropic_{shape}_small_{kind}" for shape in ("deit", "convnext") for kind in ("7x7", "gf")}
    assert set(timm.list_models("hornet_*")) == set(VARIANTS) == promised


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_runs(name: str) -> None:
    model = build_on_meta(name, num_classes=7).eval()
    assert model(torch.empty(2, 3, 96, 64, device="meta")).shape == (2, 7)


@pytest.mark.slow
def test_sizes_grow_in_order() -> None:
    for kind in ("7x7", "gf"):
        sizes = ["zepto", "atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge", "huge"]
        counts = [count_parameters(build_on_meta(f"hornet_{size}_{kind}")) for size in sizes]
        assert counts == sorted(counts)
        assert counts[0] < 1e6
        assert counts[-1] > 6e8


@pytest.mark.slow
def test_filters_have_the_originals_grids() -> None:
    for name, third, fourth in [
        ("hornet_large_gf", (720, 14, 8, 2), (1488, 7, 4, 2)),
        ("hornet_large_gf_img384", (720, 24, 13, 2), (1488, 12, 7, 2)),
        ("hornet_base_gf_img384", (480, 24, 13, 2), (992, 12, 7, 2)),
    ]:
        shapes = {tuple(p.shape) for key, p in build_on_meta(name).named_parameters() if key.endswith("complex_weight")}
        assert shapes == {third, fourth}


def test_preprocessing_at_224_is_a_bicubic_centre_crop() -> None:
    config = build_on_meta("hornet_large_gf").pretrained_cfg
    assert config["input_size"] == (3, 224, 224)
    assert (config["crop_pct"], config["crop_mode"], config["interpolation"]) == (0.875, "center", "bicubic")
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["std"] == (0.229, 0.224, 0.225)


def test_preprocessing_at_384_squashes_the_whole_image() -> None:
    config = build_on_meta("hornet_large_gf_img384").pretrained_cfg
    assert config["input_size"] == (3, 384, 384)
    assert (config["crop_pct"], config["crop_mode"]) == (1.0, "squash")
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(build_on_meta("hornet_base_gf_img384"))
    )
    assert tuple(transform.transforms[0].size) == (384, 384)


def test_pretrained_cfg_names_the_first_convolution_and_the_classifier() -> None:
    model = build_on_meta("hornet_atto_gf")
    assert isinstance(model.get_submodule(model.pretrained_cfg["first_conv"]), torch.nn.Conv2d)
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
