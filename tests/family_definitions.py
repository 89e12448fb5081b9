"""The local operators that involution is compared with, from the formulas of their papers, one pixel pair at a time."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def vector(layer: nn.Module, v: Tensor) -> Tensor:
    """Apply a 1×1 convolution, a batch norm in evaluation or a ReLU to the channels of one pixel."""
    if isinstance(layer, nn.ReLU):
        return v.clamp(min=0)
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return (v - layer.running_mean) / (layer.running_var + layer.eps).sqrt() * layer.weight + layer.bias
    y = layer.weight.flatten(1) @ v
    return y if layer.bias is None else y + layer.bias


def network(layers, v: Tensor) -> Tensor:
    for layer in layers:
        v = vector(layer, v)
    return v


def neighbours(i: int, j: int, kernel_size: int, dilation: int = 1):
    """Yield the taps u, v and the pixel that each reads."""
    reach = kernel_size // 2
    for u, v in product(range(kernel_size), repeat=2):
        yield u, v, i + dilation * (u - reach), j + dilation * (v - reach)


def mirrored(i: int, size: int) -> int:
    """Return the pixel that a position outside the map reflects, the border itself not repeated."""
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def softmax(logits: dict) -> dict:
    keys = list(logits)
    weights = torch.stack([logits[key] for key in keys]).softmax(0)
    return dict(zip(keys, weights, strict=True))


def stand_alone(phi, x: Tensor) -> Tensor:
    """Field of equation 3 of "Stand-Alone Self-Attention in Vision Models"; no logit outside the map."""
    (kernel_size, _), (batch, _, height, width) = phi.window.kernel_size, x.shape
    half, (rows, columns) = phi.head_channels // 2, phi.offsets
    field = x.new_zeros(batch, phi.groups, kernel_size, kernel_size, height, width)
    for b, g, i, j in product(range(batch), range(phi.groups), range(height), range(width)):
        head = slice(g * phi.head_channels, (g + 1) * phi.head_channels)
        q = vector(phi.query, x[b, :, i, j])[head]
        logits = {}
        for u, v, m, n in neighbours(i, j, kernel_size):
            if 0 <= m < height and 0 <= n < width:
                k = vector(phi.key, x[b, :, m, n])[head]
                logits[u, v] = q @ k + q[:half] @ rows[:, u] + q[half:] @ columns[:, v]
        for (u, v), weight in softmax(logits).items():
            field[b, g, u, v, i, j] = weight
    return field


def local_relation(phi, x: Tensor) -> Tensor:
    """Field of the local relation layer; a constant stands outside the map."""
    (kernel_size, _), (batch, _, height, width) = phi.window.kernel_size, x.shape
    alike = {
        "squared_difference": lambda q, k: -((q - k) ** 2),
        "absolute_difference": lambda q, k: -(q - k).abs(),
        "product": lambda q, k: q * k,
    }[phi.appearance]
    (dilation, _), (first, _, last) = phi.window.dilation, phi.geometry
    field = x.new_zeros(batch, phi.groups, kernel_size, kernel_size, height, width)
    for b, i, j in product(range(batch), range(height), range(width)):
        q, logits = vector(phi.query, x[b, :, i, j]), {}
        for u, v, m, n in neighbours(i, j, kernel_size, dilation):
            if 0 <= m < height and 0 <= n < width:
                offset = x.new_tensor([m - i, n - j])
                prior = last.weight @ (first.weight @ offset + first.bias).clamp(min=0) + last.bias
                logits[u, v] = alike(q, vector(phi.key, x[b, :, m, n])) + prior
            else:
                logits[u, v] = torch.full_like(q, phi.border)
        for (u, v), weight in softmax(logits).items():
            field[b, :, u, v, i, j] = weight
    return field


def outlook(attention: nn.Module, x: Tensor, values: Tensor, heads: int, kernel_size: int, stride: int, scale: float):
    """Outlook attention from section 3.1 of "VOLO": every window's result is added where it belongs (fold)."""
    (batch, channels, height, width), k = values.shape, kernel_size
    pooled = average_pool(x, stride)
    y, d = torch.zeros_like(values), channels // heads
    for b, i, j in product(range(batch), range(pooled.shape[2]), range(pooled.shape[3])):
        weights = vector(attention, pooled[b, :, i, j]).view(heads, k * k, k * k) * scale
        window = list(neighbours(stride * i, stride * j, k))
        for g, (place, (_, _, p, q)) in product(range(heads), enumerate(window)):
            if not (0 <= p < height and 0 <= q < width):
                continue
            for weight, (_, _, m, n) in zip(weights[g, place].softmax(0), window, strict=True):
                if 0 <= m < height and 0 <= n < width:
                    y[b, g * d : (g + 1) * d, p, q] += weight * values[b, g * d : (g + 1) * d, m, n]
    return y


def san_pairwise(phi, x: Tensor) -> Tensor:
    """Field of SAN's pairwise form, the map reflected at its border."""
    (kernel_size, _), (batch, _, height, width) = phi.window.kernel_size, x.shape
    field = x.new_zeros(batch, phi.groups, kernel_size, kernel_size, height, width)

    def place(i, j):
        return vector(phi.position, x.new_tensor([2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1]))

    for b, i, j in product(range(batch), range(height), range(width)):
        q, logits = vector(phi.query, x[b, :, i, j]), {}
        for u, v, m, n in neighbours(i, j, kernel_size):
            m, n = mirrored(m, height), mirrored(n, width)
            pair = torch.cat([q - vector(phi.key, x[b, :, m, n]), place(i, j) - place(m, n)])
            logits[u, v] = network(phi.relation, pair)
        for (u, v), weight in softmax(logits).items():
            field[b, :, u, v, i, j] = weight
    return field


def san_patchwise(phi, x: Tensor) -> Tensor:
    """Field of SAN's patchwise form, the map reflected at its border."""
    (kernel_size, _), (batch, _, height, width) = phi.window.kernel_size, x.shape
    field = x.new_zeros(batch, phi.groups, kernel_size, kernel_size, height, width)
    for b, i, j in product(range(batch), range(height), range(width)):
        keys = torch.stack(
            [
                vector(phi.key, x[b, :, mirrored(m, height), mirrored(n, width)])
                for _, _, m, n in neighbours(i, j, kernel_size)
            ],
            1,
        )
        patch = torch.cat([vector(phi.query, x[b, :, i, j]), keys.flatten()])
        taps = network((phi.patch_norm, phi.act, phi.reduce, phi.norm, phi.act, phi.span), patch)
        field[b, :, :, :, i, j] = taps.view(phi.groups, kernel_size, kernel_size)
    return field


def san_aggregation(values: Tensor, weights: Tensor, groups: int) -> Tensor:
    """SAN's sum over the window with its interleaved sharing: channel c takes kernel c mod G."""
    (batch, channels, height, width), kernel_size = values.shape, weights.shape[2]
    y = torch.zeros_like(values)
    for b, c, i, j in product(range(batch), range(channels), range(height), range(width)):
        for u, v, m, n in neighbours(i, j, kernel_size):
            y[b, c, i, j] += weights[b, c % groups, u, v, i, j] * values[b, c, mirrored(m, height), mirrored(n, width)]
    return y


def position_sensitive(attention, x: Tensor) -> Tensor:
    """Equation 4 of "Axial-DeepLab" with the norms of its code, for sequences ``(B, C, L)``, in evaluation."""
    batch, channels, length = x.shape
    heads, d = attention.heads, channels // attention.heads
    product_norm, norm = attention.product_norm, attention.norm
    y = torch.zeros_like(x)

    def scaled(norm, index, value):
        whitened = (value - norm.running_mean[index]) / (norm.running_var[index] + norm.eps).sqrt()
        return whitened * norm.weight[index] + norm.bias[index]

    for b, g in product(range(batch), range(heads)):
        parts = [
            vector(attention.qkv_norm, vector(attention.qkv, x[b, :, i])).view(heads, 2 * d)[g] for i in range(length)
        ]
        q, k, v = ([part[a:z] for part in parts] for a, z in ((0, d // 2), (d // 2, d), (d, 2 * d)))
        for i in range(length):
            logits, embedded = {}, {}
            for j in range(length):
                r = attention.offsets[:, j - i + attention.span - 1]
                logits[j] = (
                    scaled(product_norm, g, q[i] @ k[j])
                    + scaled(product_norm, heads + g, q[i] @ r[: d // 2])
                    + scaled(product_norm, 2 * heads + g, k[j] @ r[d // 2 : d])
                )
                embedded[j] = r[d:]
            weights = softmax(logits)
            of_values = sum(weights[j] * v[j] for j in weights)
            of_offsets = sum(weights[j] * embedded[j] for j in weights)
            for c in range(d):
                channel = g * d + c
                y[b, channel, i] = scaled(norm, channel, of_values[c]) + scaled(norm, channels + channel, of_offsets[c])
    return y


def average_pool(x: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)


def with_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return ``module`` in float64 and evaluation, with norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor in (layer.running_mean, layer.weight, layer.bias):
                tensor.data.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return module
