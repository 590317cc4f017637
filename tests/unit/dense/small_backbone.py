"""A dense backbone small enough for unit tests, and weights that show in what they compute."""

from torch import nn

from hornet.dense.backbone import DenseBackbone


def build_backbone(name: str = "hornet_atto_gf", **arguments: object) -> DenseBackbone:
    return DenseBackbone(name, **{"img_size": 64, "width": 8, "depths": (1, 1, 1, 1), **arguments})


def fill_visibly(network: nn.Module) -> nn.Module:
    """Weights whose products neither vanish nor explode, and norms that are not the identity."""
    for name, parameter in network.named_parameters():
        is_scale = parameter.dim() == 1 and not name.endswith("bias")
        std = 0.2 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, mean=float(is_scale), std=std)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
        elif name.endswith("running_mean"):
            nn.init.normal_(buffer)
    return network
