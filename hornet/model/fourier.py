"""Two-dimensional real Fourier transforms as real matrix products: no complex dtype, no fft operator.

Why not torch.fft: Inductor computes the gradient of a complex filter wrongly without a word (torch 2.13), bf16 has no
complex counterpart, and exporters do not know the operators. On HorNet's grids (at most 24 x 24 at 384 pixels) the
matrix products are as quick, and they run on whatever multiplies matrices.

Layout: an image is (B, H, W, C); a spectrum is (B, H, 2, K, C) with K = W // 2 + 1 and the real part at index 0 of
axis 2. `norm="ortho"` throughout. The transforms equal `torch.fft.rfft2` and `torch.fft.irfft2(s=(H, W))` over the two
spatial axes, values and gradients, also for spectra that belong to no real image: as there, the column transform comes
first and the imaginary parts of the zero and Nyquist columns are then ignored.
"""

import operator
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


def transform(x: Tensor) -> Tensor:
    """Real image (B, H, W, C) in float32 or float64 -> its half spectrum (B, H, 2, K, C)."""
    batch, height, width, channels = x.shape
    half = width // 2 + 1
    rows = torch.matmul(_basis("row", width, x), x)
    columns = rows.reshape(batch, 2 * height, half * channels)
    spectrum = torch.matmul(_basis("column", height, x), columns)
    return spectrum.reshape(batch, height, 2, half, channels)


def inverse_transform(spectrum: Tensor, *, width: int) -> Tensor:
    """Half spectrum (B, H, 2, K, C) -> real image (B, H, width, C); K must be width // 2 + 1."""
    batch, height, _, half, channels = spectrum.shape
    columns = spectrum.reshape(batch, 2 * height, half * channels)
    rows = torch.matmul(_basis("inverse_column", height, spectrum), columns)
    rows = rows.reshape(batch, height, 2 * half, channels)
    return torch.matmul(_basis("inverse_row", width, spectrum), rows)


def _angles(rows: int, length: int) -> Matrix:
    """2 pi k n / length for k < rows, n < length; k n is reduced first, so that large products lose no digits."""
    products = np.outer(np.arange(rows), np.arange(length)) % length
    return 2.0 * np.pi * products / length


def _row_matrix(width: int) -> Matrix:
    """Real row (W) -> its half spectrum, real parts above imaginary parts: (2 K, W)."""
    angles = _angles(width // 2 + 1, width)
    matrix: Matrix = np.concatenate([np.cos(angles), -np.sin(angles)]) / np.sqrt(width)
    return matrix


def _inverse_row_matrix(width: int) -> Matrix:
    """Half spectrum (2 K) -> real row: (W, 2 K). A column that stands for its mirror image too counts twice."""
    half = width // 2 + 1
    multiplicity = np.full((2, half), 2.0)
    multiplicity[:, 0] = 1.0, 0.0
    if width % 2 == 0:
        multiplicity[:, -1] = 1.0, 0.0
    matrix: Matrix = _row_matrix(width).T * multiplicity.reshape(-1)
    return matrix


def _column_matrix(height: int) -> Matrix:
    """Complex column -> its spectrum, both interleaved as (index, part): (2 H, 2 H)."""
    angles = _angles(height, height)
    cosine, sine = np.cos(angles), np.sin(angles)
    by_part = np.array([[cosine, sine], [-sine, cosine]])  # (part out, part in, k, h)
    matrix: Matrix = by_part.transpose(2, 0, 3, 1).reshape(2 * height, 2 * height) / np.sqrt(height)
    return matrix


def _inverse_column_matrix(height: int) -> Matrix:
    """Undo `_column_matrix`: a unitary matrix, so transposed. Shape (2 H, 2 H)."""
    return np.ascontiguousarray(_column_matrix(height).T)


_MATRICES: dict[str, Callable[[int], Matrix]] = {
    "row": _row_matrix,
    "inverse_row": _inverse_row_matrix,
    "column": _column_matrix,
    "inverse_column": _inverse_column_matrix,
}


@lru_cache(maxsize=256)
def _matrix(kind: str, length: int) -> Matrix:
    return _MATRICES[kind](length)


# Bases already on their device. Not buffers of the module: those would follow `.bfloat16()` and `.to_empty()`, be
# exchanged by wrappers, and differ per layer, while a basis depends on nothing but its length.
_bases: dict[tuple[str, int, torch.device, torch.dtype], Tensor] = {}
_MAX_BASES = 256


def _basis(kind: str, length: int, like: Tensor) -> Tensor:
    # operator.index: under torch.compile a size may be symbolic; a basis needs the number, one graph per grid.
    basis: Tensor = _load_basis(kind, operator.index(length), like.device, like.dtype)
    return basis


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _load_basis(kind: str, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix as a tensor, from the cache if it is there.

    torch.compile calls this once while it traces and keeps the tensor as a constant of the graph.
    """
    key = (kind, length, device, dtype)
    if key in _bases:
        return _bases[key]
    numpy_dtype = np.float64 if dtype is torch.float64 else np.float32
    with torch.inference_mode(False):  # an inference tensor in the cache would break the next training step
        basis = torch.from_numpy(_matrix(kind, length).astype(numpy_dtype)).to(device)
    if type(basis) is not torch.Tensor:  # torch.export and friends trace with fakes, which must not outlive the trace
        return basis
    if len(_bases) >= _MAX_BASES:
        _bases.pop(next(iter(_bases)))
    _bases[key] = basis
    return basis
