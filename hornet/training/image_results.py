"""What an evaluation found of each image: loss and hit, for comparing runs image by image.

One file an evaluation, `runs/NAME/per_image/step_00000300_raw.npz`: three arrays in the order of `key_hash`, which is
the same in every run on that set. `key_hash` (n,) int64, `hash_key` of a sample's key; `loss` (n,) float16, cross
entropy; `hit` (n,) bool, whether the label has the highest logit. `numpy.load(path, allow_pickle=False)` reads it.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from hornet.errors import UserError
from hornet.training.process_group import gather_from_all

FOLDER = "per_image"


class ImageResults:
    """The images of this rank, batch by batch, until they are gathered."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, key_hashes: Tensor, losses: Tensor, hits: Tensor) -> None:
        """Take a batch's (n,) hashes of keys, losses and hits; images that count, and no others."""
        self._parts.append((key_hashes.cpu(), losses.to("cpu", torch.float16), hits.cpu()))

    def gather(self) -> bytes:
        """Return all ranks' images as the content of an npz file. Collective.

        Raises UserError, on all ranks, if two images have the same key.
        """
        mine = [torch.cat(column).numpy() for column in zip(*self._parts, strict=True)]
        ranks = [columns for columns in gather_from_all(mine) if columns]
        empty = [np.empty(0, kind) for kind in (np.int64, np.float16, np.bool_)]
        key_hashes, losses, hits = (np.concatenate(column) for column in zip(empty, *ranks, strict=True))
        order = np.argsort(key_hashes, kind="stable")
        key_hashes = key_hashes[order]
        num_twice = int((key_hashes[1:] == key_hashes[:-1]).sum())
        if num_twice:
            raise UserError(
                f"evaluation.per_image: {num_twice} images share the key (tar and name) of another, so results cannot "
                "be told apart by key; rename them, or set it to false"
            )
        content = io.BytesIO()
        np.savez_compressed(content, key_hash=key_hashes, loss=losses[order], hit=hits[order])
        return content.getvalue()
