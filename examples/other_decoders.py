"""A HorNet under decoders of other libraries (the extra `decoders`): python examples/other_decoders.py [RUN | FILE]."""

import sys
from pathlib import Path

import segmentation_models_pytorch as smp
from torch import nn
from transformers import TimmBackboneConfig, UperNetConfig, UperNetForSemanticSegmentation

from hornet.model.hornet import HorNet  # as any import of hornet, it registers the models with timm
from hornet.stages.pretrained import read_pretrained


def build_unet(name: str, num_classes: int) -> nn.Module:
    """Build segmentation-models-pytorch's Unet: images (B, 3, H, W), multiples of 32 pixels, to logits (B, K, H, W)."""
    return smp.Unet(f"tu-{name}", encoder_weights=None, classes=num_classes)


def build_uper_net(name: str, num_classes: int) -> nn.Module:
    """Build transformers' UPerNet: `pixel_values` (B, 3, H, W), and `labels` (B, H, W) for a loss, to `.logits`."""
    backbone = TimmBackboneConfig(backbone=name, out_indices=[0, 1, 2, 3])
    config = UperNetConfig(backbone_config=backbone, num_labels=num_classes, use_auxiliary_head=False)
    return UperNetForSemanticSegmentation(config)


def load_backbone(network: nn.Module, path: Path) -> None:
    """Load a classifier's weights, of a run, a checkpoint or a file, into the HorNet within a network."""
    [backbone] = (module for module in network.modules() if isinstance(module, HorNet))
    weights = read_pretrained(path, weights="raw", label_space=None).state_dict
    backbone.load_state_dict({key: weights[key] for key in weights if not key.startswith(("norm.", "head."))})


if __name__ == "__main__":
    for build in (build_unet, build_uper_net):
        network = build("hornet_atto_gf", 5)
        if len(sys.argv) > 1:
            load_backbone(network, Path(sys.argv[1]))
        print(network)
