import pytest

from hornet.errors import UserError
from hornet.hardware import GPUS, find_gpu, find_peak_flops, get_gpu


@pytest.mark.parametrize(
    ("device_name", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("NVIDIA H100 80GB HBM3", "h100-80"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200-141"),
        ("NVIDIA B200", "b200"),
        ("Tesla V100-SXM2-32GB", "v100-32"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_a_device_is_found_by_the_name_torch_gives_it(device_name, key):
    gpu = find_gpu(device_name)
    assert gpu is not None
    assert gpu.key == key


def test_what_is_not_known_has_no_rate():
    assert find_peak_flops("Some Accelerator 9000") is None
    assert find_peak_flops("Tesla V100-SXM2-32GB") is None, "it has no bf16"
    assert find_peak_flops("NVIDIA H200") == 989e12


def test_keys_are_unique():
    assert len({gpu.key for gpu in GPUS}) == len(GPUS)


def test_a_user_names_a_gpu_by_its_key():
    assert get_gpu("a100-40").memory_gib == 40
    for key, hint in (
        ("h100", r"did you mean h100-pcie or h100-80\?"),
        ("H200", r"did you mean h200-141\?"),
        ("b2000", r"did you mean b200\?"),
        ("tpu", "known are v100-32, a100-40, .*mi300x"),
    ):
        with pytest.raises(UserError, match=f"gpu: '{key}' is none that is known; {hint}"):
            get_gpu(key)
