"""HorNet: high-order spatial interactions from recursive gated convolutions, and what a training run of it is made of.

Importing this package registers the models with timm: `timm.create_model("hornet_large_gf")`.
"""

from hornet.model import variants as variants
