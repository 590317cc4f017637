"""Images with the things in them shown: their boxes, masks and names."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.utils import draw_bounding_boxes, make_grid

EDGE_PIXELS = 320
"""Of the square that one image is shown in."""


def make_colours(num_colours: int) -> list[tuple[float, float, float]]:
    """Return colours (red, green, blue in 0..1) of which no two are close, whatever their number."""
    # Hues a golden section apart are never close to each other.
    return [colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 0.95) for label in range(num_colours)]


def render_instances(
    image: Tensor, boxes: Tensor, masks: Tensor, *, labels: Tensor, names: Sequence[str], size: tuple[int, int]
) -> Tensor:
    """Return an image (3, H, W) of bytes as a square (3, 320, 320) of values in 0..1, with the things shown on it.

    Boxes (N, 4) and masks (N, height, width) are in pixels of `size`, whatever the image has; `names` are those of the
    labels (N,). Of masks that overlap the first is seen. What is beside the image is white.
    """
    height, width = image.shape[1:]
    scale = EDGE_PIXELS / max(height, width)
    shown = max(1, round(height * scale)), max(1, round(width * scale))
    pixels = functional.interpolate(image[None].float().cpu(), size=shown, mode="bilinear", antialias=True)
    marked = pixels[0].round().clamp(0, 255).byte()
    if len(boxes):
        table = [tuple(round(255 * part) for part in colour) for colour in make_colours(len(names))]
        chosen = [int(label) for label in labels]
        colours = [table[number] for number in chosen]
        resized = functional.interpolate(masks[None].float().cpu(), size=shown, mode="nearest")[0] > 0.5
        bare, marked = marked, marked.clone()
        for mask, colour in zip(resized.flip(0), reversed(colours), strict=True):
            marked[:, mask] = bare[:, mask] // 2 + torch.tensor(colour, dtype=torch.uint8)[:, None] // 2
        factors = torch.tensor([shown[1] / size[1], shown[0] / size[0]] * 2)
        corners = boxes.float().cpu() * factors
        corners[:, 2:] = torch.maximum(corners[:, 2:], corners[:, :2])
        marked = draw_bounding_boxes(marked, corners, labels=[names[number] for number in chosen], colors=colours)
    square = torch.full((3, EDGE_PIXELS, EDGE_PIXELS), 255, dtype=torch.uint8)
    square[:, : shown[0], : shown[1]] = marked
    return square / 255


def lay_side_by_side(tiles: Sequence[Tensor]) -> Tensor:
    """Return squares (3, H, W), two a row, as one image; a black pixel if there are none."""
    if not tiles:
        return torch.zeros(3, 1, 1)
    rendered: Tensor = make_grid(torch.stack(list(tiles)), nrow=2, padding=2, pad_value=1.0)
    return rendered
