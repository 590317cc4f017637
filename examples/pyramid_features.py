"""Features of four scales, as detectors and segmenters want them: python examples/pyramid_features.py."""

import timm
import torch

import hornet  # noqa: F401  registers the models with timm


def list_features(name: str = "hornet_atto_gf", size: tuple[int, int] = (96, 160)) -> list[tuple[int, ...]]:
    """Return the shapes (B, C, H, W) for one image; global filters follow its size."""
    backbone = timm.create_model(name, features_only=True).eval()
    with torch.no_grad():
        return [tuple(features.shape) for features in backbone(torch.zeros(1, 3, *size))]


if __name__ == "__main__":
    for shape in list_features():
        print(shape)
