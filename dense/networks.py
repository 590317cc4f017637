"""The network of a run, fresh, from its settings."""

from __future__ import annotations

import torch

from dense.config import DenseConfig, InstancesConfig
from hornet.dense.backbone import DenseBackbone
from hornet.dense.config import DenseBackboneConfig
from hornet.dense.instance_segmenter import InstanceSegmenter, build_instance_segmenter
from hornet.dense.pyramid import FeaturePyramid
from hornet.dense.uper_net import UPerNet
from hornet.errors import UserError
from hornet.model.sizes import STEM_STRIDE
from hornet.seeding import derive_seed


def build_network(config: DenseConfig | InstancesConfig, *, num_classes: int) -> UPerNet | InstanceSegmenter:
    """Return the run's network, fresh, for the classes of a label space: a detector's has the background first.

    Raises UserError if its name or arguments make none.
    """
    torch.manual_seed(derive_seed("weights", config.run.seed))
    if isinstance(config, InstancesConfig):
        return _build_detector(config, num_classes=num_classes)
    backbone = _build_backbone(config.model)
    return UPerNet(
        backbone,
        num_classes=num_classes,
        channels=config.model.channels,
        kind=config.model.pyramid,
        num_decay_layers=config.model.layer_decay_depth,
    )


def get_backbone(network: UPerNet | InstanceSegmenter) -> DenseBackbone:
    """Return the part of a network that a classifier's weights go into."""
    backbone = network.backbone if isinstance(network, UPerNet) else network.backbone.body
    assert isinstance(backbone, DenseBackbone)
    return backbone


def _build_detector(config: InstancesConfig, *, num_classes: int) -> InstanceSegmenter:
    model = config.model
    backbone = _build_backbone(model)
    if backbone.stem_stride != STEM_STRIDE:
        raise UserError(
            f"model.arguments: a detector's maps are of strides 4, 8, 16 and 32, and not from stem_stride="
            f"{backbone.stem_stride} on; leave it out"
        )
    return build_instance_segmenter(
        model.detector,
        backbone,
        FeaturePyramid(backbone.channels, out_channels=model.channels, kind=model.pyramid),
        num_classes=num_classes - 1,
        anchor_size=model.anchor_size,
        num_regions=model.regions_per_image,
    )


def _build_backbone(model: DenseBackboneConfig) -> DenseBackbone:
    try:
        backbone = DenseBackbone(
            model.name,
            img_size=model.filter_size,
            drop_path_rate=model.drop_path_rate,
            layer_scale_init=model.layer_scale_init,
            **(model.arguments or {}),
        )
    except UserError:
        raise
    except Exception as error:  # a constructor may raise anything for arguments of the wrong kind
        if not model.arguments:
            raise
        raise UserError(f"model.arguments: {model.name} does not take them: {error}") from error
    if backbone.in_channels != 3:
        raise UserError(
            f"model.arguments: images have 3 channels, and not in_chans={backbone.in_channels}; leave it out"
        )
    backbone.set_grad_checkpointing(model.activation_checkpointing)
    return backbone
