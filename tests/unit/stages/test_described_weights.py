"""What a checkpoint says of its network is enough to build it again."""

from pathlib import Path

import pytest

from hornet.data.config import MixingConfig
from hornet.errors import UserError
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.shards.label_space import LabelSpace
from hornet.stages.classification import describe_weights
from hornet.stages.config import ExportConfig
from hornet.stages.pretrained import choose_network


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "hornet_atto_gf", "layer_scale_init": 0.1},
        {"name": "convnext_atto", "layer_scale_init": 0.1, "arguments": {"dims": (8, 16, 32, 64)}},
        {"name": "vit_tiny_patch16_224", "layer_scale_init": 0.1, "arguments": {"patch_size": 8}},
        {"name": "vit_tiny_patch16_224"},
        {"name": "hornet_atto_gf", "resize": "spectral"},
    ],
)
def test_the_network_is_built_from_its_description(settings):
    model = ModelConfig(**settings)
    said = describe_weights(
        model=model, image_size=32, mixing=MixingConfig(), label_space=LabelSpace(name="x", classes=("a", "b", "c"))
    )
    again = choose_network(ExportConfig(source=Path("s"), output=Path("o"), image_size=32), said)
    assert again.resize == model.resize
    trained, rebuilt = (
        build_model(config, num_classes=3, image_size=said["image_size"], seed=0).state_dict()
        for config in (model, again)
    )
    assert {key: tensor.shape for key, tensor in trained.items()} == {
        key: tensor.shape for key, tensor in rebuilt.items()
    }


def test_what_the_user_says_goes_before_what_the_weights_do():
    known = {"model": "hornet_atto_gf", "arguments": {"width": 8}, "resize": "spectral"}
    base = {"source": Path("s"), "output": Path("o"), "image_size": 32}
    assert choose_network(ExportConfig(**base), known).resize == "spectral"
    assert choose_network(ExportConfig(**base, resize="bilinear"), known).resize == "bilinear"
    other = choose_network(ExportConfig(**base, model="hornet_femto_gf"), known)
    assert (other.name, other.arguments, other.resize) == ("hornet_femto_gf", None, "bilinear")
    with pytest.raises(UserError, match="model: is missing; s does not say which model its weights are of"):
        choose_network(ExportConfig(**base), {})
