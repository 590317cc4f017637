"""Our own kernels for GPUs, in Triton: what plain operators do elsewhere in hornet/model, in fewer passes over memory.

Off by default; HorNet.use_kernels("fused"), or `model.kernels: fused` in a run's settings, turns them on.
"""

from importlib import import_module
from importlib.util import find_spec

import torch

from hornet.errors import UserError


def require_kernels() -> None:
    """Register the operators with torch, or raise UserError where they cannot run."""
    for is_there, missing in ((torch.cuda.is_available(), "CUDA device"), (find_spec("triton"), "Triton")):
        if not is_there:
            raise UserError(
                "kernels is 'fused', which needs a CUDA device and Triton, but this machine has no "
                f"{missing}: use 'plain'."
            )
    import_module("hornet.model.kernels.depthwise")
