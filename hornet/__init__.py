"""HorNet: high-order spatial interactions from recursive gated convolutions, and what a training run of it is made of.

Importing this package registers the models with timm: `timm.create_model("hornet_large_gf")`.
"""

from importlib import import_module
from typing import Any

from wrapt import register_post_import_hook

default_cfgs: dict[str, Any] = {}
"""Preprocessing of the named networks, where timm looks for it; hornet/model/variants.py fills it."""

# When timm is there, now or later: commands that only move bytes need not wait for it, nor hold torch in memory.
register_post_import_hook(lambda _: import_module("hornet.model.variants"), "timm.models")
