"""State dicts for another image size: filters resampled, and of timm's networks what timm resamples.

Names and shapes of our state dicts are the original ones, so there is no conversion between layouts here; timm's
functions know the layouts of the originals of its networks.
Not here: a head for other classes (finetune/start.py), resizing on the fly or by load_state_dict (global_filter.py).
"""

import inspect
import sys
from collections.abc import Mapping

from torch import Tensor, nn

from hornet.model.global_filter import FilterGrid, GlobalLocalFilter, resize_filter
from hornet.model.sizes import Resize

FILTER_SUFFIX = "complex_weight"


def get_filter_grids(model: nn.Module) -> dict[str, FilterGrid]:
    """State dict name of each filter of the model -> its grid (h, w)."""
    return {
        f"{name}.{FILTER_SUFFIX}": (module.complex_weight.shape[1], module.complex_weight.shape[2])
        for name, module in model.named_modules()
        if isinstance(module, GlobalLocalFilter)
    }


def choose_resize(model: nn.Module, how: Resize) -> int:
    """Say how the model's filters are brought to another grid, loaded or for images; return how many it has."""
    filters = [module for module in model.modules() if isinstance(module, GlobalLocalFilter)]
    for module in filters:
        module.resize = how
    return len(filters)


def get_resize(model: nn.Module) -> Resize:
    """Return how the model's filters are brought to another grid; of a model without filters bilinear."""
    return next((module.resize for module in model.modules() if isinstance(module, GlobalLocalFilter)), "bilinear")


def resize_filters(
    state_dict: Mapping[str, Tensor], *, grids: Mapping[str, FilterGrid], how: Resize = "bilinear"
) -> dict[str, Tensor]:
    """Return the state dict with each filter named in `grids` on that grid (`resize_filter`).

    Filters already on their grid and all other entries are the same tensors as before. Raises ValueError for a filter
    that is not (C, h, w, 2).
    """
    resized = dict(state_dict)
    for name, grid in grids.items():
        weight = state_dict.get(name)
        if weight is None or tuple(weight.shape[1:3]) == tuple(grid):
            continue
        if weight.dim() != 4 or weight.shape[-1] != 2:
            raise ValueError(f"{name} has shape {tuple(weight.shape)}, but a filter is (channels, h, w, 2).")
        resized[name] = resize_filter(weight, grid, how=how).contiguous()
    return resized


def fit_to_model(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights on the model's image size: filters as `choose_resize` said to it, all else as timm does.

    Timm's function for the network's family (position embeddings, tables of relative positions, names of the
    originals) is asked only where a name or a shape differs. What fits is the same tensor as before. Raises ValueError.
    """
    fitted = resize_filters(state_dict, grids=get_filter_grids(model), how=get_resize(model))
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if convert is None or {name: tensor.shape for name, tensor in fitted.items()} == expected:
        return fitted
    takes_model = len(inspect.signature(convert).parameters) > 1
    return dict(convert(dict(fitted), model) if takes_model else convert(dict(fitted)))
