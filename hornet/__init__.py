"""HorNet: high-order spatial interactions from recursive gated convolutions, and what a training run of it is made of.

Importing this package registers the models with timm: `timm.create_model("hornet_large_gf")`.
"""

from importlib import import_module

from wrapt import register_post_import_hook

__version__ = "0.2.0"
"""The release, which names itself in what it writes (hornet/formats.py)."""

# When timm is there, now or later: commands that only move bytes need not wait for it, nor hold torch in memory.
register_post_import_hook(lambda _: import_module("hornet.model.variants"), "timm.models")
