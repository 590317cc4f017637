"""The network: tensors to tensors. Not here: ranks, files, flags."""

# First: when timm comes, the models are registered (hornet/__init__.py); not while one of them is half loaded.
import timm.models as timm_models  # noqa: F401
