"""Weights into segmenters and detectors: a segmenter of the original's whole, or a classifier's into the backbone."""

from pathlib import Path

from hornet.dense.backbone import DenseBackbone
from hornet.dense.uper_net import UPerNet
from hornet.model.state_dicts import find_only_state_dict
from hornet.stages.pretrained import Pretrained, load_weights, read_pretrained
from hornet.training.checkpoints.weight_file import read_weight_file
from hornet.training.config import Weights

_OF_THE_CLASSIFIER = ("norm.weight", "norm.bias", "head.weight", "head.bias")


def load_backbone(backbone: DenseBackbone, path: Path | str, *, weights: Weights = "raw") -> int:
    """Load a classifier's weights from a run, checkpoint or file; return the number of filters that were resampled.

    The norms behind the stages stay as they are: a classifier has none. Raises UserError as
    hornet.stages.pretrained.read_pretrained, and, naming parameters, for weights of another network.
    """
    return fit_backbone(backbone, read_pretrained(path, weights=weights, label_space=None))


def fit_backbone(backbone: DenseBackbone, found: Pretrained) -> int:
    """As load_backbone, of weights that are read already."""
    trunk = {name: tensor for name, tensor in found.state_dict.items() if name not in _OF_THE_CLASSIFIER}
    norms = {name: tensor for name, tensor in backbone.state_dict().items() if name.startswith("norm")}
    model = found.description.get("model")
    source = found.source if model is None else f"{found.source}, a {model}"
    return load_weights({**norms, **trunk}, backbone, source=source)


def load_segmenter(network: UPerNet, path: Path | str) -> int:
    """Load a whole segmenter from a file of torch.save or safetensors, such as the original's; as load_backbone."""
    return load_weights(find_only_state_dict(read_weight_file(Path(path)), source=str(path)), network, source=str(path))
