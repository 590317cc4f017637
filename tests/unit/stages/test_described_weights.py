"""What a checkpoint says of its network is enough to build it again."""

import pytest

from hornet.data.config import MixingConfig
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.shards.label_space import LabelSpace
from hornet.stages.classification import describe_weights


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "hornet_atto_gf", "layer_scale_init": 0.1},
        {"name": "convnext_atto", "layer_scale_init": 0.1, "arguments": {"dims": (8, 16, 32, 64)}},
        {"name": "vit_tiny_patch16_224", "layer_scale_init": 0.1, "arguments": {"patch_size": 8}},
        {"name": "vit_tiny_patch16_224"},
    ],
)
def test_the_network_is_built_from_its_description(settings):
    model = ModelConfig(**settings)
    said = describe_weights(
        model=model, image_size=32, mixing=MixingConfig(), label_space=LabelSpace(name="x", classes=("a", "b", "c"))
    )
    again = ModelConfig(name=said["model"], arguments=said.get("arguments"))
    trained, rebuilt = (
        build_model(config, num_classes=3, image_size=said["image_size"], seed=0).state_dict()
        for config in (model, again)
    )
    assert {key: tensor.shape for key, tensor in trained.items()} == {
        key: tensor.shape for key, tensor in rebuilt.items()
    }
