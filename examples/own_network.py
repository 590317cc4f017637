"""A network of one's own, trained like any other: this file, and a config that names it.

    cd FOLDER_OF_THIS_FILE
    deepspeed .../pretrain.py --config my.yaml model.module=own_network model.name=own_network

It needs `num_classes` among its arguments, and `get_classifier`. It may have timm's `set_grad_checkpointing`,
`group_matcher` and `no_weight_decay`, and arguments `drop_path_rate` and `img_size`.
"""

from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

default_cfgs = {"own_network": {}}  # timm's: there is nothing that it should know of weights


class OwnNetwork(nn.Module):
    """Three strided convolutions and a linear layer."""

    def __init__(self, num_classes: int = 1000, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4), nn.GELU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU()
        )
        self.head = nn.Linear(width, num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the layer whose rows are the classes: finetuning maps them by name."""
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes)."""
        logits: Tensor = self.head(self.layers(images).mean(dim=(2, 3)))
        return logits


@register_model
def own_network(pretrained: bool = False, **arguments) -> nn.Module:
    """Build it; the name is what `model.name` says. timm takes out what is its own, and loads an exported folder."""
    return build_model_with_cfg(OwnNetwork, "own_network", pretrained, kwargs_filter=("in_chans",), **arguments)
