"""HorFPN and UPerNet once more, as functions of a state dict with OpenMMLab's names: channels first, torch.fft.

Read from the original's gn_fpn.py, gn_uper_head.py and gn_module.py, and from the papers; shares no code with hornet/.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Weights = dict[str, Tensor]


def under(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def conv(x: Tensor, weights: Weights, name: str, **settings: int) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight, weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2, **settings)


def norm_relu(x: Tensor, weights: Weights, prefix: str) -> Tensor:
    bn = under(weights, f"{prefix}bn.")
    return F.relu(F.batch_norm(x, bn["running_mean"], bn["running_var"], bn["weight"], bn["bias"], eps=1e-5))


def conv_module(x: Tensor, weights: Weights, prefix: str) -> Tensor:
    return norm_relu(conv(x, weights, f"{prefix}conv"), weights, prefix)


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    normed = (x - mean) / (variance + 1e-6).sqrt()
    return normed * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def global_local(x: Tensor, weights: Weights) -> Tensor:
    x = layer_norm(x, weights, "pre_norm")
    half = x.shape[1] // 2
    local = conv(x[:, :half], weights, "dw", groups=half)
    spectrum = torch.fft.rfft2(x[:, half:], norm="ortho")
    parts = weights["complex_weight"].permute(3, 0, 1, 2)
    parts = F.interpolate(parts, size=spectrum.shape[2:], mode="bilinear", align_corners=True)
    filtered = torch.fft.irfft2(spectrum * torch.complex(*parts), s=x.shape[2:], norm="ortho")
    return layer_norm(torch.stack([local, filtered], dim=2).flatten(1, 2), weights, "post_norm")


def gnconv(x: Tensor, weights: Weights) -> Tensor:
    """Of order 2, without the factor 1/3."""
    out = weights["pws.0.weight"].shape[0]
    first, rest = conv(x, weights, "proj_in").split([out // 2, out // 2 + out], dim=1)
    rest = (
        conv(rest, weights, "dwconv", groups=rest.shape[1])
        if "dwconv.weight" in weights
        else global_local(rest, under(weights, "dwconv."))
    )
    narrow, wide = rest.split([out // 2, out], dim=1)
    return conv(conv(first * narrow, weights, "pws.0") * wide, weights, "proj_out")


def pyramid(maps: list[Tensor], weights: Weights) -> list[Tensor]:
    sums = [conv(x, weights, f"lateral_convs.{i}.conv") for i, x in enumerate(maps)]
    for i in (2, 1, 0):
        sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[2:], mode="nearest")
    outs = [
        conv(x, weights, f"fpn_convs.{i}.conv")
        if f"fpn_convs.{i}.conv.weight" in weights
        else gnconv(x, under(weights, f"fpn_convs.{i}."))
        for i, x in enumerate(sums)
    ]
    return [*outs, outs[-1][:, :, ::2, ::2]]


def resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def uper_head(maps: list[Tensor], weights: Weights) -> Tensor:
    last = maps[3]
    pooled = [
        conv_module(F.adaptive_avg_pool2d(last, size), weights, f"psp_modules.{i}.1.")
        for i, size in enumerate((1, 2, 3, 6))
    ]
    context = torch.cat([last, *(resize(x, last.shape[2:]) for x in pooled)], dim=1)
    sums = [conv_module(x, weights, f"lateral_convs.{i}.") for i, x in enumerate(maps[:3])]
    sums.append(conv_module(context, weights, "bottleneck."))
    for i in (2, 1, 0):
        sums[i] = sums[i] + resize(sums[i + 1], sums[i].shape[2:])
    outs = [conv_module(x, weights, f"fpn_convs.{i}.") for i, x in enumerate(sums[:3])] + [sums[3]]
    joined = torch.cat([resize(x, outs[0].shape[2:]) for x in outs], dim=1)
    fused = (
        conv_module(joined, weights, "fpn_bottleneck.")
        if "fpn_bottleneck.conv.weight" in weights
        else norm_relu(gnconv(joined, under(weights, "fpn_bottleneck.")), weights, "fpn_bottleneck.")
    )
    return conv(fused, weights, "conv_seg")
