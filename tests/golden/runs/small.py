"""Imported into a rank, makes hornet_atto_gf the network of the release runs."""

from hornet.model.variants import VARIANTS
from tests.golden.runs.make import SMALL

VARIANTS["hornet_atto_gf"].update(SMALL)
