"""A global filter for another image size by its frequencies: those that both sizes have are kept, the rest is 0.

A filter says by what each frequency of an image is multiplied, in cycles per image. The law: on an image without
frequencies that one of the two sizes lacks, the resized filter does what the old one does on the image at the old size,
resampled periodically. No factor belongs to that: image and result grow alike. A size of even length has one
frequency, Nyquist's, that stands for two of opposite sign; an image's is halved where a larger size tells them apart, a
filter's stands for both, and of two that become one the mean.

Sums over small matrices, not slices: so it can be exported for any size.
"""

import torch
from torch import Tensor


def resize_spectrally(weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """Half spectra (C, h, w, 2) of filters -> (C, *grid, 2).

    The width of an image does not follow from that of its half spectrum, w: it is taken for h if that is 2 w - 2 or
    2 w - 1, as it is of square images, else for the even one. On its own grid a filter stays as it is.
    """
    _, height, half, _ = weight.shape
    rows = _build_row_selection(height, grid[0], weight)
    columns = _build_column_selection(half, grid[1], weight)
    if height != 2 * half - 1:
        is_own = (_count_rows(rows) == height) & (_count_rows(columns) == half)
        weight = torch.where(is_own, weight, _pair_nyquist_column(weight))
    return torch.einsum("yh,chwp,xw->cyxp", rows, weight, columns)


def _pair_nyquist_column(weight: Tensor) -> Tensor:
    """Write into the last column what it does: (F[u] + conj F[-u]) / 2.

    The inverse transform makes this of it as long as it is Nyquist's; in a wider spectrum nothing would.
    """
    nyquist = weight[:, :, -1:]
    mirrored = nyquist.flip(1).roll(1, 1) * weight.new_tensor([1.0, -1.0])
    return torch.cat([weight[:, :, :-1], (nyquist + mirrored) / 2], dim=2)


def _count_rows(selection: Tensor) -> Tensor:
    """Return the length as a tensor, which exporters hold as a symbol without tying the graph to it."""
    return torch.arange(selection.shape[0], device=selection.device)[-1] + 1


def _build_row_selection(before: int, after: int, like: Tensor) -> Tensor:
    """(after, before): row f is the mean of the rows before that hold the frequencies of f; 0 where none does."""
    index = torch.arange(after, device=like.device)[:, None]
    source = torch.arange(before, device=like.device)
    length = index[-1:] + 1  # a tensor: see _count_rows
    selection = torch.zeros((), dtype=like.dtype, device=like.device)
    for is_negative in (2 * index > length, 2 * index >= length):  # these differ for Nyquist's alone
        frequency = torch.where(is_negative, index - length, index)
        held_by = torch.where(frequency < 0, frequency + before, frequency)
        is_known = 2 * frequency.abs() <= before
        selection = selection + ((held_by == source) & is_known).to(like.dtype) / 2
    return selection


def _build_column_selection(before: int, after: int, like: Tensor) -> Tensor:
    """(after, before): the columns of both, which hold frequencies from 0 on."""
    index = torch.arange(after, device=like.device)[:, None]
    return (index == torch.arange(before, device=like.device)).to(like.dtype)
