"""Networks in OpenVINO, as docs/models.md shows: with the shape pinned."""

import pytest
import torch

from tests.unit.model.small_model import build_small, fill_visibly

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("filter_stages", [(), (3,)], ids=["7x7", "gf"])
def test_a_pinned_shape_is_right_and_another_is_refused(filter_stages: tuple[int, ...]) -> None:
    model = fill_visibly(build_small(depths=(1, 1, 1, 1), filter_stages=filter_stages)).eval()
    images = torch.randn(2, 3, 64, 96)
    program = torch.export.export(model, (images,))
    assert openvino.convert_model(program).inputs[0].partial_shape[2].is_dynamic, "why the shape is pinned"
    network = openvino.convert_model(program, input=list(images.shape))
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(compiled(images.numpy())[0])
    expected = model(images)
    assert (found - expected).norm() / expected.norm() < 1e-5
    with pytest.raises(RuntimeError, match="shape"):
        compiled(torch.randn(2, 3, 64, 64).numpy())
