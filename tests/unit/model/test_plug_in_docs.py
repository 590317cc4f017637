"""The examples of docs/plug_in.md, run as they stand there."""

import re
from pathlib import Path

import pytest
import timm
import torch

from hornet.model.gnconv import GnConv

TEXT = (Path(__file__).resolve().parents[3] / "docs/plug_in.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def run(start: str) -> dict:
    """Run the section's first block that begins after the given words of the text."""
    block = next(block for block in BLOCKS if TEXT.index(block) > TEXT.index(start))
    exec(compile(block, "docs/plug_in.md", "exec"), names := {})
    return names


def count_mixers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, GnConv) for module in model.modules())


def require_all_gradients(output: torch.Tensor, model: torch.nn.Module) -> None:
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.slow
def test_a_block_of_a_resnet() -> None:
    names = run("A block of a ResNet")
    assert names["logits"].shape == (2, 10)
    model = names["model"]
    assert count_mixers(model) == 1
    for block in model.layer3:  # timm begins with branches that add nothing
        torch.nn.init.ones_(block.bn3.weight)
    require_all_gradients(model(torch.randn(2, 3, 64, 64)), model.layer3)


@pytest.mark.slow
def test_attention_of_a_vit() -> None:
    names = run("Attention of a ViT")
    assert names["logits"].shape == (2, 10)
    assert count_mixers(names["model"]) == len(names["model"].blocks)
    require_all_gradients(names["logits"], names["model"].blocks)


def test_a_decoder() -> None:
    names = run("A decoder")
    assert names["classes"].shape == (2, 5, 16, 16)
    require_all_gradients(names["classes"], names["decoder"])


@pytest.mark.slow
def test_the_layer_and_the_replacement_at_the_top_and_the_end(monkeypatch) -> None:
    names = run("# gnConv in other networks")
    assert names["layer"](torch.randn(1, 64, 5, 6)).shape == (1, 64, 5, 6)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))  # no network in tests
    code = next(block for block in BLOCKS if "taken_out" in block)
    exec(code, names | {"timm": timm}, made := {})
    assert len(made["taken_out"]) == 12
    assert made["model"](torch.randn(1, 3, 64, 64)).shape == (1, 1000)
