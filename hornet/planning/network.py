"""The network as a plan sees it: parameters, operations, memory of a micro batch."""

from __future__ import annotations

from dataclasses import dataclass

from hornet.model.config import ModelConfig
from hornet.model.cost import count_multiply_adds, count_training_flops
from hornet.planning.activations import Activations, Precision, build_on_meta, measure_activations


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """What follows from the network, the image size and the classes alone."""

    name: str
    image_size: int
    num_parameters: int
    published_gflops: float
    """Multiply-adds of one image's forward pass in the convention of the paper's tables, 1e9."""
    training_flops_per_image: int
    """Floating point operations of one image's forward and backward pass."""
    activations: Activations
    """Memory of a micro batch."""
    num_elements: tuple[int, ...]
    """Of each parameter, in the network's order."""


def plan_network(config: ModelConfig, *, num_classes: int, image_size: int, precision: Precision) -> NetworkPlan:
    """Measure a network without memory for it."""
    model = build_on_meta(config, num_classes=num_classes, image_size=image_size)
    num_elements = tuple(parameter.numel() for parameter in model.parameters())
    return NetworkPlan(
        name=config.name,
        image_size=image_size,
        num_parameters=sum(num_elements),
        published_gflops=count_multiply_adds(model, image_size).published / 1e9,
        training_flops_per_image=count_training_flops(model, image_size),
        activations=measure_activations(config, num_classes=num_classes, image_size=image_size, precision=precision),
        num_elements=num_elements,
    )
