"""Our kernels as GPUs run them."""

from importlib.util import find_spec

import pytest
import timm
import torch
from torch.nn import functional

import hornet  # noqa: F401  registers the models

if not torch.cuda.is_available() or find_spec("triton") is None:
    pytest.skip("needs a CUDA device and Triton", allow_module_level=True)
else:
    from tests.unit.model.kernels.depthwise_cases import SHAPES, make_case, require_agreement, run_kernel

pytestmark = pytest.mark.gpu

# The stages of HorNet-T at 224 pixels, and an image that is not square.
REAL_SHAPES = [
    (8, 56, 56, 32, 96),
    (8, 28, 28, 32, 224),
    (8, 14, 14, 32, 480),
    (8, 7, 7, 32, 992),
    (2, 128, 192, 96, 288),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES + REAL_SHAPES)
def test_the_kernel_agrees_with_float64(shape, dtype):
    require_agreement(shape, device="cuda", dtype=dtype)


def test_the_same_input_gives_the_same_bits():
    case = make_case(REAL_SHAPES[0], device="cuda", dtype=torch.bfloat16)
    assert all(torch.equal(one, other) for one, other in zip(run_kernel(case), run_kernel(case), strict=True))


def compute_gradients(kernels: str, *, is_compiled: bool) -> dict[str, torch.Tensor]:
    # Without layer scales of 1e-6, which would hide the gnConvs.
    torch.manual_seed(0)
    model = timm.create_model("hornet_tiny_gf", num_classes=10, layer_scale_init=1.0).cuda()
    model.use_kernels(kernels)
    if is_compiled:
        model.compile()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(images)
    functional.cross_entropy(logits.float(), torch.arange(4, device="cuda")).backward()
    return {name: parameter.grad.double() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_fused_network_has_the_plain_ones_gradients(is_compiled):
    plain = compute_gradients("plain", is_compiled=False)
    fused = compute_gradients("fused", is_compiled=is_compiled)
    assert list(fused) == list(plain)
    for name, gradient in plain.items():
        assert (fused[name] - gradient).norm() <= 0.1 * gradient.norm(), name
