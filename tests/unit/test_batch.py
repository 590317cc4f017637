import pytest
import torch

from hornet.batch import BadSample, Batch


def test_all_tensors_are_pinned_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a device nothing can be pinned: a copy stands for it."""
    bad = BadSample(shard="a.tar", offset=0, key="a/b", epoch=0, reason="torn", substitute="a/c")
    batch = Batch(
        images_bchw=torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3).permute(0, 3, 1, 2),
        labels=torch.tensor([1, 2]),
        erase_boxes=torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]], dtype=torch.int32),
        key_hashes=torch.tensor([5, 6]),
        keys=("a/c", ""),
        is_real=torch.tensor([True, False]),
        bad_samples=(bad,),
    )
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.clone()) or pinned[-1])
    found = batch.pin_memory()
    assert len(pinned) == 5
    assert (found.bad_samples, found.keys) == ((bad,), ("a/c", ""))
    for name in ("images_bchw", "labels", "erase_boxes", "key_hashes", "is_real"):
        assert torch.equal(getattr(found, name), getattr(batch, name))
        assert any(getattr(found, name) is tensor for tensor in pinned)
    assert found.images_bchw.is_contiguous(memory_format=torch.channels_last)
