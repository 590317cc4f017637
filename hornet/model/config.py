"""Settings of the network."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from hornet.config import Settings, resumable
from hornet.field_types import Arguments
from hornet.model.sizes import MIN_IMAGE_SIZE, VARIANTS, Kernels, Resize

OWN_LAYER_SCALE = 1e-6
"""What `layer_scale_init` is in HorNet and in ConvNeXt; other networks keep what they have."""

RESERVED = {
    "num_classes": "it follows from the labels",
    "img_size": "data.transform.image_size says it",
    "in_chans": "images have three channels",
    "drop_path_rate": "model.drop_path_rate says it",
    "layer_scale_init": "model.layer_scale_init says it",
    "device": "the engine says it",
    "dtype": "parameters are fp32",
    "pretrained": "start.from of a finetuning run says where weights come from",
    "pretrained_cfg": "nothing is downloaded",
    "pretrained_cfg_overlay": "nothing is downloaded",
    "checkpoint_path": "start.from of a finetuning run says where weights come from",
    "cache_dir": "nothing is downloaded",
    "scriptable": "networks are trained as they are",
    "exportable": "networks are trained as they are",
    "features_only": "a classification network is trained",
    "feature_cls": "a classification network is trained",
    "out_indices": "a classification network is trained",
    "no_jit": "networks are trained as they are",
    "pruned": "nothing is downloaded",
    "kwargs_filter": "it is timm's own",
    "model_name": "model.name says it",
    "variant": "model.name says it",
}
"""What `model.arguments` may not hold, and why."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which network, and what is switched on in it while it trains."""

    name: str
    """One of our networks, such as hornet_large_gf, or any classification network of timm's, such as convnext_tiny."""
    module: str | None = None
    """A Python module that is imported first, such as my_package.networks: it registers networks of one's own with
    timm. It is looked for on Python's path and in the working directory."""
    arguments: Arguments | None = None
    """Arguments of the network's constructor, such as {window_size: 8}."""
    drop_path_rate: float = 0.0
    """Largest rate of stochastic depth; it grows linearly from 0 at the first block."""
    layer_scale_init: float = OWN_LAYER_SCALE
    """Initial value of the layer scales. At the default, networks of others keep their own. With 0 the blocks of a
    HorNet start as the identity; in the original it has no layer scales then."""
    head_init_scale: float = 1.0
    """Factor on the initial weights of the head. Rows that finetuning takes over from its start keep their values."""
    resize: Resize = "bilinear"
    """How global filters are brought to another image size, of weights that training starts from and of images that
    are evaluated: bilinear as the original does, or spectral, which keeps the frequencies that both sizes have."""
    activation_checkpointing: bool = resumable(False)
    """Compute each block's activations again in the backward pass instead of keeping them."""
    kernels: Kernels = resumable("plain")
    """"plain" operators, or "fused": our own kernels for CUDA devices, for 7x7 depthwise convolutions."""
    compile: bool = resumable(False)
    """Compile the network with torch.compile: slower to start, one graph for each image size."""

    def _find_problems(self) -> Iterator[str]:
        if not 0 <= self.drop_path_rate < 1:
            yield f"drop_path_rate: must lie in 0..1 (1 excluded), not {self.drop_path_rate}"
        if self.layer_scale_init < 0:
            yield f"layer_scale_init: must be 0 or more, not {self.layer_scale_init}"
        if not 0 <= self.head_init_scale < math.inf:
            yield f"head_init_scale: must be 0 or more, and finite, not {self.head_init_scale}"
        if "head_init_scale" in (self.arguments or {}) and self.head_init_scale != 1:
            yield "arguments.head_init_scale: head_init_scale says it too; leave out one of them"
        if self.name.startswith("hornet_") and self.module is None and self.name not in VARIANTS:
            near = difflib.get_close_matches(self.name, VARIANTS, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(VARIANTS)}"
            yield f"name: {self.name!r} is not one of our networks; {hint}"
        yield from find_module_problems(self.module)
        for key, value in (self.arguments or {}).items():
            if key.startswith("pretrained") and key not in RESERVED:
                yield f"arguments.{key}: may not be given; nothing is downloaded"
            elif key in RESERVED:
                yield f"arguments.{key}: may not be given; {RESERVED[key]}"
            elif value is None:
                yield f"arguments.{key}: must not be null, which timm takes for not given; leave it out"


def find_module_problems(module: str | None) -> Iterator[str]:
    """Yield a sentence if `module`, of a network of one's own, cannot be the name of one."""
    if module is not None and not all(part.isidentifier() for part in module.split(".")):
        yield f"module: must be the dotted name of a Python module, as my_package.networks, not {module!r}"


def find_image_size_problems(size: int, *, model: str | None, key: str) -> Iterator[str]:
    """Yield what is wrong with images of `size` pixels a side, which `key` of a config asks for."""
    if (model in VARIANTS or model is None) and size < MIN_IMAGE_SIZE:
        yield f"{key}: must be at least {MIN_IMAGE_SIZE} pixels, the stride of the network, not {size}"
