import numpy as np
import pytest
import torch

from hornet.model.convolution import ChannelsLastConv
from hornet.model.global_filter import GlobalLocalFilter
from hornet.model.gnconv import GnConv, split_channels


def apply_gnconv_by_hand(module: GnConv, x: np.ndarray) -> np.ndarray:
    """The paper's equations for one image (H, W, C) in float64, positions and channels in plain loops."""
    weights = {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}
    height, width, channels = x.shape

    def mix(name: str, vector: np.ndarray) -> np.ndarray:
        return weights[f"{name}.weight"][:, :, 0, 0] @ vector + weights[f"{name}.bias"]

    gates = [channels // 2**i for i in range(len(module.pws) + 1)][::-1]
    projected = np.array([[mix("proj_in", x[i, j]) for j in range(width)] for i in range(height)])
    p, q = projected[..., : gates[0]], projected[..., gates[0] :]

    kernel, bias = weights["dwconv.weight"][:, 0], weights["dwconv.bias"]
    spatial = np.zeros_like(q)
    for i in range(height):
        for j in range(width):
            for c in range(q.shape[-1]):
                total = bias[c]
                for di in range(-3, 4):
                    for dj in range(-3, 4):
                        if 0 <= i + di < height and 0 <= j + dj < width:
                            total += kernel[c, di + 3, dj + 3] * q[i + di, j + dj, c]
                spatial[i, j, c] = module.scale * total

    out = np.zeros_like(x)
    for i in range(height):
        for j in range(width):
            value = p[i, j]
            start = 0
            for k, gate in enumerate(gates):
                if k:
                    value = mix(f"pws.{k - 1}", value)
                value = value * spatial[i, j, start : start + gate]
                start += gate
            out[i, j] = mix("proj_out", value)
    return out


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_gnconv_is_the_papers_equations(order: int) -> None:
    module = GnConv(16, order=order, scale=1 / 3).double()
    x = torch.randn(2, 5, 4, 16, dtype=torch.float64)
    ours = module(x)
    for image in range(2):
        expected = apply_gnconv_by_hand(module, x[image].numpy())
        np.testing.assert_allclose(ours[image].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_an_interaction_of_order_n_is_a_polynomial_of_degree_n_plus_1() -> None:
    # With no biases every gate multiplies by something linear in x, so scaling x by t scales the output by t**(n + 1).
    order = 3
    module = GnConv(8, order=order, scale=1.0).double()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(2.0 * x), 2.0 ** (order + 1) * module(x), rtol=1e-10, atol=0.0)


def test_a_grid_asks_for_a_global_filter_in_place_of_the_convolution() -> None:
    assert isinstance(GnConv(16, order=2, scale=1.0).dwconv, ChannelsLastConv)
    module = GnConv(16, order=2, scale=1.0, filter_grid=(7, 4))
    assert isinstance(module.dwconv, GlobalLocalFilter)
    assert module.dwconv.complex_weight.shape == (12, 7, 4, 2)
    assert module(torch.randn(2, 7, 7, 16)).shape == (2, 7, 7, 16)


def test_gates_double_up_to_the_full_width() -> None:
    assert split_channels(64, 5) == [4, 8, 16, 32, 64]


def test_an_order_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="order is 0, but gnConv needs at least one gate"):
        GnConv(16, order=0, scale=1.0)


def test_channels_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channels is 24, but a gnConv of order 5 .* give a multiple of 16"):
        GnConv(24, order=5, scale=1.0)
