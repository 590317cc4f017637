"""Kernels of our own for GPUs, in Triton; each does what plain operators do elsewhere in hornet/model, in fewer passes.

Never needed and off by default: `HorNet.use_kernels("fused")`, or `model.kernels: fused` in a run's settings, turns them on.
"""
