"""What Triton's compiler makes of our kernels for Hopper GPUs; it needs none."""

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
]

POINTERS = {"source": "*bf16", "factor": "*bf16", "gradient": "*bf16", "out": "*bf16"}
FLOAT32_POINTERS = {"weight": "*fp32", "bias": "*fp32", "partial": "*fp32"}
TYPES = {**POINTERS, **FLOAT32_POINTERS, "scale": "fp32"}
STRIDES = {"source_stride": 480, "factor_stride": 480, "gradient_stride": 288, "weight_stride": 288, "out_stride": 288}


def compile_for_hopper(kernel, constants: dict[str, int], folder: Path) -> str:
    """Return what the assembler reports."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    constants = {name: value for name, value in {**STRIDES, **constants}.items() if name in names}
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in names if TYPES.get(name, "")[:1] == "*"},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assembly = folder / "kernel.ptx"
    assembly.write_text(compiled.asm["ptx"])
    assembler = Path(find_spec("triton").origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
    return subprocess.run(
        [str(assembler), "-v", "--gpu-name=sm_90a", str(assembly), "-o", str(folder / "kernel.cubin")],
        capture_output=True,
        text=True,
        check=True,
    ).stderr


@pytest.mark.parametrize("kernel", ["output", "input gradient", "weight gradient"])
def test_a_kernel_stays_in_its_registers(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from hornet.model.kernels import depthwise

    if kernel == "weight gradient":
        report = compile_for_hopper(
            depthwise._correlate,
            {
                "rows": depthwise.ROWS_A_PROGRAM,
                "size": depthwise.SIZE,
                "strip": depthwise.WEIGHT_STRIP,
                "block": depthwise.WEIGHT_BLOCK_CHANNELS,
            },
            tmp_path,
        )
    else:
        report = compile_for_hopper(
            depthwise._convolve,
            {
                "is_input_gradient": kernel == "input gradient",
                "size": depthwise.SIZE,
                "strip": depthwise.STRIP,
                "block": depthwise.BLOCK_CHANNELS,
            },
            tmp_path,
        )
    assert "0 bytes spill stores, 0 bytes spill loads" in report
    assert int(re.search(r"Used (\d+) registers", report)[1]) < 255
