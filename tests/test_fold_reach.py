"""Norms below a forward that torch.fx cannot trace, and what such a forward may do with its children."""

import functools

import pytest
import torch
from folding import assert_same, left, norms, settled
from torch import nn
from torch.utils.checkpoint import checkpoint

from involution import fold_batch_norms


class Block(nn.Module):
    """A convolution and a norm, with methods beside forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.channels = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), 16

    def forward(self, x):
        return self.norm(self.conv(x))

    def half(self, x):
        return self.conv(x)

    def loss(self, x):
        return x.square().mean() / self.channels


class Net(nn.Module):
    """Its forward, which a subclass has, is not traced: it branches by numbers."""

    def __init__(self):
        super().__init__()
        self.block, self.blocks, self.line = Block(), nn.ModuleList([Block()]), nn.Sequential(Block())
        self.act = torch.relu


def branch(x):
    return float(x.sum()) > -1e9


class Whole(Net):
    def forward(self, x):
        if self.block is not None and branch(x):
            x = self.act(self.block(x) / self.block.channels)
        for index, block in enumerate(self.blocks):
            x = block(x) + index
        first = self.line
        x = checkpoint(self.block, x, use_reentrant=False)
        return [first(self.blocks[0](x)), *(block(x) for block in self.blocks), self.block.loss(x)]


class Derived(Whole):
    def forward(self, x):
        return super().forward(x) if self.training is False else x


class PartOfIt(Net):
    def forward(self, x):
        return self.block.conv(x) if branch(x) else self.block(x)


class Listed(Net):
    def forward(self, x):
        return self.line[0].conv(x) if branch(x) else self.line(x)


class ByMethod(Net):
    def forward(self, x):
        return self.helper(x) if branch(x) else self.block(x)

    def helper(self, x):
        return self.block.half(x)


class ByProperty(Net):
    def forward(self, x):
        return self.first(x) if branch(x) else self.block(x)

    @property
    def first(self):
        return self.block.conv


class ByName(Net):
    def forward(self, x):
        return self.get_submodule("block.conv")(x) if branch(x) else self.block(x)


class ByTable(Net):
    def forward(self, x):
        return self._modules["block"].conv(x) if branch(x) else self.block(x)


class HandedOn(Net):
    def forward(self, x):
        return other(self, x) if branch(x) else self.block(x)


def other(net, x):
    return net.block.conv(x)


class ByVariable(Net):
    def forward(self, x):
        block = self.block
        return block.conv(x) if branch(x) else block(x)


class InLoop(Net):
    def forward(self, x):
        for block in self.blocks:
            x = block.conv(x) if branch(x) else block(x)
        return x


class ByBase(PartOfIt):
    def forward(self, x):
        return super().forward(x)


class ByClosure(Net):
    def __init__(self):
        super().__init__()
        self.first = lambda x: self.block.conv(x)

    def forward(self, x):
        return self.first(x) if branch(x) else self.block(x)


class ByPartial(ByClosure):
    def __init__(self):
        super().__init__()
        self.first = functools.partial(other, self)


class Beside(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [self.block]

    def forward(self, x):
        return self.hidden[0].conv(x) if branch(x) else self.block(x)


def test_what_is_seen_to_be_called_whole_is_folded():
    for kind in (Whole, Derived):
        model = settled(kind(), 2, 16, 5, 5)
        folded, report = fold_batch_norms(model)
        assert report.left == () and "" in report.untraced
        assert_same(folded, model, torch.randn(2, 16, 5, 5))


KINDS = [PartOfIt, Listed, ByMethod, ByProperty, ByName, ByTable, HandedOn, ByVariable, InLoop, ByBase, ByClosure]


@pytest.mark.parametrize("kind", [*KINDS, ByPartial, Beside], ids=lambda kind: kind.__name__)
def test_what_may_be_used_in_parts_is_left(kind):
    model = with_other_norms(kind())
    folded, report = fold_batch_norms(model)
    assert_same(folded, model, torch.randn(2, 16, 5, 5))
    name = {Listed: "line", InLoop: "blocks"}.get(kind, "block")
    reason = f"left: the model, which torch.fx cannot trace, may use a part of {name}"
    if kind is Beside:
        reason = "left: block also stands in the attribute hidden, which would keep it"
    assert {norm: outcome for norm, outcome in left(report).items() if norm.startswith(f"{name}.")} == {
        norm: reason for norm in norms(model) if norm.startswith(f"{name}.")
    }


def with_other_norms(model):
    for module in model.modules():
        if isinstance(module, Block):
            settled(module, 2, 16, 5, 5)
    return model.eval()


def test_a_replaced_forward_may_use_any_part():
    model = with_other_norms(nn.Sequential(Block()))
    model.forward = lambda x: model[0].conv(x)
    folded, report = fold_batch_norms(model)
    assert left(report) == {"0.norm": "left: the model, which torch.fx cannot trace, may use a part of 0"}
    assert_same(folded, model, torch.randn(2, 16, 5, 5))


@pytest.mark.parametrize("wrap", [nn.DataParallel, functools.partial(torch.compile, backend="eager")])
def test_wrappers_of_torch_call_the_whole(wrap):
    assert fold_batch_norms(wrap(Block().eval()).eval())[1].left == ()
