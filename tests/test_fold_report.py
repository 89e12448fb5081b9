"""Which norms and ReLUs stay, and the words the report has for it."""

import pytest
import torch
from folding import assert_same, folded_as_reported, left, norms, settled
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

from involution import Involution2d, fold_batch_norms


class Flow(nn.Module):
    """A convolution and a norm, with whatever a test does to them."""

    def __init__(self, forward, layer=None):
        super().__init__()
        self.conv, self.norm = layer or nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.linear, self.relu, self.other = nn.Linear(9, 9), nn.ReLU(), nn.BatchNorm2d(16)
        self.flow = forward

    def forward(self, x):
        return self.flow(self, x)


FLOWS = {
    "read twice": (lambda m, x: m.norm(y := m.conv(x)) + y, "the output of conv is also read by something else"),
    "layer twice": (lambda m, x: m.norm(m.conv(m.conv(x))), "conv before it is called several times"),
    "norm twice": (lambda m, x: m.norm(m.norm(m.conv(x))), "it is called several times"),
    "weight read": (lambda m, x: m.norm(m.conv(x)) + m.conv.weight.sum(), "conv before it is called several times"),
    "after a layer": (lambda m, x: m.norm(m.linear(x)), "it follows linear, a Linear"),
    "after a function": (lambda m, x: m.norm(m.conv(x) + x), "it follows a call of add"),
    "after a method": (lambda m, x: m.norm(m.conv(x).sigmoid()), "it follows a call of sigmoid"),
    "first": (lambda m, x: m.norm(x), "it follows the input of the model"),
    "not called": (lambda m, x: m.conv(x), "no traced forward calls it"),
}


@pytest.mark.parametrize("name", FLOWS)
def test_why_a_norm_is_left(name):
    flow, reason = FLOWS[name]
    model = settled(Flow(flow), 2, 16, 9, 9)
    folded, report = folded_as_reported(model, torch.randn(2, 16, 9, 9))
    assert left(report)["norm"] == f"left: {reason}"
    assert norms(folded) == ["norm", "other"]


def straight(model, x):
    return model.relu(model.norm(model.conv(x)))


def without_statistics(model):
    model.norm = nn.BatchNorm2d(16, track_running_stats=False)


def as_subclass(model):
    model.norm = type("Louder", (nn.BatchNorm2d,), {"forward": lambda self, x: 2 * nn.BatchNorm2d.forward(self, x)})(16)


def in_training(model):
    model.norm.train()


def sharing_a_weight(model):
    model.twin = nn.Conv2d(16, 16, 1)
    model.twin.weight = model.conv.weight


def with_two_names(model):
    model.again = model.norm


def with_a_forward_of_its_own(model):
    model.conv.forward = lambda x: 2 * F.conv2d(x, torch.ones(16, 16, 1, 1))


def dropping(model):
    model.norm = BatchNormAct2d(16, drop_layer=nn.Dropout)


def with_a_layer_in_a_replaced_forward(model):
    model.forward = lambda x: model.relu(model.norm(2 * model.conv(x)))


def of_another_class(model):
    model.conv = type("Halved", (nn.Conv2d,), {"forward": lambda self, x: nn.Conv2d.forward(self, x) / 2})(16, 16, 1)


CHANGES = {
    without_statistics: "it has no running statistics and takes those of each batch",
    as_subclass: "its class Louder may do more than a batch norm",
    in_training: "it is in training mode",
    sharing_a_weight: "conv shares a weight with another module",
    with_two_names: "norm is registered under several names",
    with_a_forward_of_its_own: "the forward of conv has been replaced",
    dropping: "it drops values by a Dropout",
    with_a_layer_in_a_replaced_forward: "no traced forward calls it; what comes before it is unknown where torch.fx "
    "cannot trace",
    of_another_class: "it follows a call of truediv",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_plain_convolution_and_norm_is_left(change):
    model = settled(Flow(straight), 2, 16, 9, 9)
    change(model)
    model = model if change is in_training else model.eval()
    x = torch.randn(2, 16, 9, 9)
    folded, report = fold_batch_norms(model)
    assert left(report)["norm"] == f"left: {CHANGES[change]}"
    assert_same(folded, model, x)


# The names of the four lists of hooks are PyTorch's own business: here it shows when they change.
WATCHERS = [
    lambda m: m.register_forward_hook(lambda module, inputs, output: output + 1),
    lambda m: m.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,)),
    lambda m: m.register_full_backward_hook(lambda module, before, after: None),
    lambda m: m.register_full_backward_pre_hook(lambda module, before: None),
]


@pytest.mark.parametrize("watch", WATCHERS)
@pytest.mark.parametrize("watched", ["0", "1.0", "1"])
def test_watched_modules_are_left(watch, watched):
    model = nn.Sequential(Involution2d(16), nn.Sequential(nn.BatchNorm2d(16), nn.Sigmoid()), nn.ReLU())
    settled(model, 2, 16, 9, 9)
    watch(model.get_submodule(watched))
    x = torch.randn(2, 16, 9, 9)
    folded, report = fold_batch_norms(model)
    assert left(report) == {"1.0": f"left: {watched} is watched by a hook"}
    assert_same(folded, model, x)


def test_hooks_around_a_chain_stay_and_see_no_symbols():
    seen = []
    model = settled(nn.Sequential(nn.Sequential(Involution2d(16), nn.BatchNorm2d(16)), nn.ReLU()), 2, 16, 9, 9)
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    folded, report = folded_as_reported(model, torch.randn(2, 16, 9, 9))
    assert report.left == () and seen == [torch.Tensor, torch.Tensor]
    # The ReLU outside would change what the hook sees.
    assert not folded[0][0].relu and report.norms[-1].outcome.endswith("1 stays: 0 is watched by a hook")


RELUS = {
    "used twice": (lambda m, x: m.relu(m.linear(m.relu(m.norm(m.conv(x))))), "relu stays: it is called several times"),
    "a function": (lambda m, x: F.relu(m.norm(m.conv(x))), "the ReLU after it is no module and stays"),
    "a method": (lambda m, x: m.norm(m.conv(x)).relu(), "the ReLU after it is no module and stays"),
    "norm read twice": (lambda m, x: m.relu(y := m.norm(m.conv(x))) + y, ""),
    "an addition before": (lambda m, x: m.relu(m.norm(m.conv(x)) + x), ""),
}


@pytest.mark.parametrize("name", RELUS)
def test_relus_that_stay(name):
    flow, note = RELUS[name]
    model = settled(Flow(flow, Involution2d(16)), 2, 16, 9, 9)
    folded, report = folded_as_reported(model, torch.randn(2, 16, 9, 9))
    assert not folded.conv.relu and isinstance(folded.relu, nn.ReLU)
    (entry,) = (entry for entry in report.norms if entry.norm == "norm")
    assert entry.outcome == "in scale and bias of Involution2d" + (f"; {note}" if note else "")


def test_what_fx_cannot_trace_is_folded_child_by_child():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Involution2d(16))
            self.shared = nn.Conv2d(16, 16, 1)
            self.a, self.b = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.body(x)
            return self.a(self.shared(x)) + self.b(self.shared(x)) if x.sum() > -1e9 else x

    model = settled(Untraceable(), 2, 3, 8, 8)
    folded, report = folded_as_reported(model, torch.randn(2, 3, 8, 8))
    assert norms(folded) == ["a", "b"]
    reason = "no traced forward calls it; what comes before it is unknown where torch.fx cannot trace"
    assert left(report) == {"a": f"left: {reason}", "b": f"left: {reason}"}
    assert list(report.untraced) == [""] and "control flow" in report.untraced[""]


def test_the_search_leaves_no_trace_in_what_a_module_keeps():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.last = self.body(x)
            return self.last

    model = Keeping().eval()
    folded, report = fold_batch_norms(model)
    assert report.left == () and model.last is None and folded.last is None and model.calls == folded.calls == 0


def test_the_report_prints_as_a_table():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), Involution2d(16), nn.BatchNorm2d(16), nn.ReLU())
    model.append(nn.BatchNorm2d(16))
    assert str(fold_batch_norms(model.eval())[1]).splitlines() == [
        "3 of 4 batch norms folded",
        "layer                      norm                     activation  what was done",
        "0                          1                        –           in weight and bias of Conv2d",
        "2.kernel_generator.reduce  2.kernel_generator.norm  –           in weight and bias of Conv2d",
        "2                          3                        4           in scale and bias of Involution2d, with the ReLU",
        "–                          5                        –           left: it follows 4, a ReLU",
    ]
    assert str(fold_batch_norms(nn.ReLU().eval())[1]) == "0 of 0 batch norms folded"


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode only; call model\.eval\(\) first"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
