"""Norms whose forwards branch by what they are given, which a symbol cannot tell."""

import pytest
import torch
from folding import assert_same, left, settled
from torch import nn

from involution import fold_batch_norms


class Pair(nn.Module):
    """A convolution and a norm, for the forward of a subclass."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)


class NoneByDefault(Pair):
    def forward(self, x, skip=None):
        y = self.conv(x)
        if skip is None:
            y = y + x
        return self.norm(y)


class TensorOnRequest(Pair):
    def forward(self, x, skip=None):
        y = self.conv(x)
        if skip is not None:
            y = y + skip
        return self.norm(y)


class ByKeyword(Pair):
    def forward(self, x, *, act=None):
        y = self.conv(x)
        if not (act is not None):
            y = y.tanh()
        return self.norm(y)


class Early(Pair):
    def forward(self, x, skip=None):
        y = self.conv(x)
        return y if skip is None else self.norm(y)


BRANCHES = {
    NoneByDefault: "it follows a call of add",
    TensorOnRequest: "it follows a call of add",
    ByKeyword: "it follows a call of tanh",
    Early: "conv before it is called without it for some arguments",
}


@pytest.mark.parametrize("kind", BRANCHES, ids=lambda kind: kind.__name__)
def test_a_norm_is_left_where_some_call_has_something_between(kind):
    model = kind()
    x, other = torch.randn(2, 16, 5, 5), torch.randn(2, 16, 5, 5)
    if kind is Early:
        settled(nn.Sequential(model.conv, model.norm), 2, 16, 5, 5)
    model = settled(model, 2, 16, 5, 5)
    folded, report = fold_batch_norms(model)
    assert left(report) == {"norm": f"left: {BRANCHES[kind]}"}
    assert_same(folded, model, x)
    if kind is not ByKeyword:
        torch.testing.assert_close(folded(x, other), model(x, other))


class Before(Pair):
    def forward(self, x, skip=None, *, scale=1.0):
        if skip is not None:
            x = x + skip
        return self.norm(self.conv(x * scale))


class Refusing(Pair):
    def forward(self, x, other=None):
        if x is None:
            raise ValueError("give an input")
        return self.norm(self.conv(x.reshape(x.shape)))


@pytest.mark.parametrize("kind", [Before, Refusing])
def test_a_norm_is_folded_where_every_call_has_nothing_between(kind):
    model = settled(kind(), 2, 16, 5, 5)
    folded, report = fold_batch_norms(model)
    assert report.left == () and report.untraced == {}
    assert_same(folded, model, torch.randn(2, 16, 5, 5))


class HeldBeside(Pair):
    def __init__(self):
        super().__init__()
        self.layers = [self.conv, {"norm": self.norm}]

    def forward(self, x):
        return self.layers[1]["norm"](self.layers[0](x))


def test_a_module_that_an_ordinary_attribute_keeps_is_left():
    model = settled(HeldBeside(), 2, 16, 5, 5)
    folded, report = fold_batch_norms(model)
    assert left(report) == {"norm": "left: conv also stands in the attribute layers, which would keep it"}
    assert_same(folded, model, torch.randn(2, 16, 5, 5))
