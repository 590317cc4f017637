"""Two-dimensional real Fourier transforms as real matrix products: no complex dtype, no fft operator.

Why not torch.fft: Inductor computes the gradient of a complex filter wrongly without a word (torch 2.13), bf16 has no
complex counterpart, and exporters do not know the operators. On HorNet's grids (at most 24 x 24 at 384 pixels) the
matrix products are as quick, and they run on whatever multiplies matrices.

Layout: an image is (B, H, W, C); a spectrum is (B, H, 2, K, C) with K = W // 2 + 1 and the real part at index 0 of
axis 2. `norm="ortho"` throughout. The transforms equal `torch.fft.rfft2` and `torch.fft.irfft2(s=(H, W))` over the two
spatial axes, values and gradients, also for spectra that belong to no real image: as there, the column transform comes
first and the imaginary parts of the zero and Nyquist columns are then ignored.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def transform(x: Tensor) -> Tensor:
    """Real image (B, H, W, C) in float32 or float64 -> its half spectrum (B, H, 2, K, C)."""
    batch, height, width, channels = x.shape
    half = width // 2 + 1
    rows = torch.matmul(_get_basis("row", width, x), x)
    columns = rows.reshape(batch, 2 * height, half * channels)
    spectrum = torch.matmul(_get_basis("column", height, x), columns)
    return spectrum.reshape(batch, height, 2, half, channels)


def inverse_transform(spectrum: Tensor, *, width: int) -> Tensor:
    """Half spectrum (B, H, 2, K, C) -> real image (B, H, width, C); K must be width // 2 + 1."""
    batch, height, _, half, channels = spectrum.shape
    columns = spectrum.reshape(batch, 2 * height, half * channels)
    rows = torch.matmul(_get_basis("inverse_column", height, spectrum), columns)
    rows = rows.reshape(batch, height, 2 * half, channels)
    return torch.matmul(_get_basis("inverse_row", width, spectrum), rows)


def _build_angles(num_rows: int, length: int, device: torch.device) -> Tensor:
    """2 pi k n / length for k < num_rows, n < length; k n is reduced first, so large products lose no digits."""
    rows, columns = torch.arange(num_rows, device=device), torch.arange(length, device=device)
    # By a tensor that holds the length: exporters know no remainder by a length that they hold as a symbol.
    products = rows[:, None] * columns % (columns[-1:] + 1)
    angles: Tensor = products.to(torch.float64) * (2.0 * torch.pi / length)
    return angles


def _build_row_basis(width: int, device: torch.device) -> Tensor:
    """Real row (W) -> its half spectrum, real parts above imaginary parts: (2 K, W)."""
    angles = _build_angles(width // 2 + 1, width, device)
    basis: Tensor = torch.cat([angles.cos(), -angles.sin()]) * width**-0.5
    return basis


def _build_inverse_row_basis(width: int, device: torch.device) -> Tensor:
    """Half spectrum (2 K) -> real row: (W, 2 K). A column that stands for its mirror image too counts twice."""
    half = width // 2 + 1
    frequency = torch.arange(half, device=device)
    is_its_own_mirror = (frequency == 0) | (2 * frequency == width)
    real = torch.where(is_its_own_mirror, 1.0, 2.0)
    imaginary = torch.where(is_its_own_mirror, 0.0, 2.0)
    basis: Tensor = _build_row_basis(width, device).T * torch.cat([real, imaginary])
    return basis


def _build_column_basis(height: int, device: torch.device) -> Tensor:
    """Complex column -> its spectrum, both interleaved as (index, part): (2 H, 2 H)."""
    angles = _build_angles(height, height, device)
    cosine, sine = angles.cos(), angles.sin()
    real = torch.stack([cosine, sine], dim=-1)  # (k, h, part in)
    imaginary = torch.stack([-sine, cosine], dim=-1)
    both = torch.stack([real, imaginary], dim=1)  # (k, part out, h, part in)
    basis: Tensor = both.reshape(2 * height, 2 * height) * height**-0.5
    return basis


def _build_inverse_column_basis(height: int, device: torch.device) -> Tensor:
    """Undo the column basis: a unitary matrix, so transposed. Shape (2 H, 2 H)."""
    return _build_column_basis(height, device).T


_BUILDERS: dict[str, Callable[[int, torch.device], Tensor]] = {
    "row": _build_row_basis,
    "inverse_row": _build_inverse_row_basis,
    "column": _build_column_basis,
    "inverse_column": _build_inverse_column_basis,
}

# Not buffers of the module: those would follow `.bfloat16()` and `.to_empty()`, be exchanged by wrappers and saved by
# some, and differ per layer, while a basis depends on nothing but its length.
_bases: dict[tuple[str, int, torch.device, torch.dtype], Tensor] = {}
_MAX_BASES = 256
_HAVE_FLOAT64 = ("cpu", "cuda", "meta")
"""Kinds of devices. Apple's and some of Intel's have none."""


def _build_basis(kind: str, length: int, like: Tensor) -> Tensor:
    """Compute the matrix in float64, on the device of `like` if it can, then round it to the dtype of `like`."""
    device = like.device if like.device.type in _HAVE_FLOAT64 else torch.device("cpu")
    basis = _BUILDERS[kind](length, device).to(like.dtype).contiguous()
    return basis if device == like.device else basis.to(like.device)


def _get_basis(kind: str, length: int, like: Tensor) -> Tensor:
    """Return the matrix from the cache in eager mode; where somebody traces, as part of the traced graph.

    A graph with the few small operators in it is right for any tracer and costs microseconds, while a tensor that
    enters a graph from outside is where tracers differ (torch 2.13 accepts one constant function per graph), and one
    made while tracing must not stay in the cache.
    """
    if torch.compiler.is_compiling() or type(like) not in (Tensor, torch.nn.Parameter):
        return _build_basis(kind, length, like)
    key = (kind, length, like.device, like.dtype)
    if key not in _bases:
        if len(_bases) >= _MAX_BASES:
            _bases.pop(next(iter(_bases)))
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor would break the next training step
            _bases[key] = _build_basis(kind, length, like)
    return _bases[key]
