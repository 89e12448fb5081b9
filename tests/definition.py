"""Involution written from its definition, one scalar at a time: the judge of the reference backend."""

from __future__ import annotations

from itertools import product

import torch
from cases import Case
from torch import Tensor


def _neighbour(case: Case, pixel: tuple[int, ...], tap: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the input pixel that ``tap`` of the window at output ``pixel`` reads, None outside the map."""
    position = tuple(s * i + d * u - p for i, u, s, p, d in zip(pixel, tap, *case.window[1:], strict=True))
    inside = all(0 <= h < n for h, n in zip(position, case.size, strict=True))
    return position if inside else None


def _terms(case: Case):
    """Yield every product of the sum: index of the output, of the input and of the kernel."""
    group_channels = case.channels // case.groups
    for b, c in product(range(case.batch), range(case.channels)):
        for pixel in product(*map(range, case.output_size)):
            for tap in product(*map(range, case.kernel_size)):
                neighbour = _neighbour(case, pixel, tap)
                if neighbour is not None:
                    yield (b, c, *pixel), (b, c, *neighbour), (b, c // group_channels, *tap, *pixel)


def _contract(case: Case, a: Tensor, b: Tensor, shape: tuple[int, ...], a_at: int, b_at: int, out_at: int) -> Tensor:
    out = torch.zeros(shape, dtype=torch.float64)
    totals: dict[tuple[int, ...], float] = {}
    a_values, b_values = _dictionary(a), _dictionary(b)
    for term in _terms(case):
        totals[term[out_at]] = totals.get(term[out_at], 0.0) + a_values[term[a_at]] * b_values[term[b_at]]
    for index, value in totals.items():
        out[index] = value
    return out


def _dictionary(tensor: Tensor) -> dict[tuple[int, ...], float]:
    return dict(zip(product(*map(range, tensor.shape)), tensor.double().flatten().tolist(), strict=True))


def forward(case: Case, x: Tensor, h: Tensor) -> Tensor:
    return _contract(case, x, h, (case.batch, case.channels, *case.output_size), 1, 2, 0)


def input_gradient(case: Case, dy: Tensor, h: Tensor) -> Tensor:
    return _contract(case, dy, h, (case.batch, case.channels, *case.size), 0, 2, 1)


def kernel_gradient(case: Case, dy: Tensor, x: Tensor) -> Tensor:
    shape = (case.batch, case.groups, *case.kernel_size, *case.output_size)
    return _contract(case, dy, x, shape, 0, 1, 2)
