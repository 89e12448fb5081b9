"""Parameters and multiply-adds of any network, counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from involution import Involution2d
from involution.counting import count
from involution.kernel_generation import LocalAttentionKernelGenerator
from involution.studies.costs.rows import create_timm_model

timm = pytest.importorskip("timm", reason="some of the nets that are counted are timm's")


def test_every_kind_of_work_is_counted_as_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # to 8 × 5 × 6
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # to 4 × 10 × 12
        Involution2d(4, 4, kernel_size=3, stride=2, group_channels=2, reduction=2),  # to 4 × 5 × 6
        nn.MaxPool2d(2),  # to 4 × 2 × 3
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    cost = count(net, (3, 9, 11))
    # Of the involution: reduce 4 → 2 without bias and span 2 → 3·3·2 with bias on the pooled 5 × 6 grid.
    assert cost.kinds == {
        "convolution": 3 * 3 * 3 * 8 * 30 + 2 * 2 * 8 * 4 * 30 + 4 * 2 * 30 + 2 * 18 * 30,
        "matrix product": 24 * 10,
        "involution": 3 * 3 * 4 * 30,
        "convolution bias": 8 * 30 + 4 * 120 + 18 * 30,
        "norm": 2 * (8 * 30 + 2 * 30),
        "activation": 8 * 30 + 2 * 30,
        "pooling": 4 * 120 + 4 * 30,
    }
    assert cost.macs == 6480 + 3840 + 240 + 1080 + 240 + 1080
    assert cost.paper_rule == cost.macs + 1260 + 600 + 300 + 600
    assert cost.params == (216 + 8) + 16 + (128 + 4) + (8 + 4 + 36 + 18) + 250
    assert cost.uncounted == ()


def test_a_bias_is_counted_on_a_map_of_one_pixel():
    layer = Involution2d(4, 4, 1, groups=2, kernel_generator="san_pairwise")
    # Of φ, for one neighbour: query and key of 1 channel, the position of 2, γ's last matrix to 2 groups.
    assert count(layer, (4, 1, 1)).kinds["convolution bias"] == 1 + 1 + 2 + 2
    # The same per pixel on a larger map.
    assert count(layer, (4, 2, 3)).kinds["convolution bias"] == 6 * (1 + 1 + 2 + 2)


class _Called(nn.Module):
    """A function as a module; its input does not matter."""

    def __init__(self, function, *sizes) -> None:
        super().__init__()
        self.function, self.tensors = function, [torch.ones(size) for size in sizes]

    def forward(self, x):
        return self.function(*self.tensors)


def test_a_matrix_times_a_vector_costs_its_entries():
    for function, sizes in (
        (torch.mv, [(3, 5), (5,)]),
        (torch.addmv, [(3,), (3, 5), (5,)]),
    ):
        assert count(_Called(function, *sizes), (1,)).kinds["matrix product"] == 15
    assert count(_Called(torch.dot, (7,), (7,)), (1,)).kinds["matrix product"] == 7


@pytest.mark.parametrize(("added", "bias"), [((3, 1), 2 * 3 * 4), ((3, 4), 0), ((2, 3, 4), 0), ((2, 3, 1), 0)])
def test_what_is_added_to_products_is_a_bias_where_it_is_a_value_per_row(added, bias):
    cost = count(_Called(torch.baddbmm, added, (2, 3, 5), (2, 5, 4)), (1,))
    assert (cost.kinds["matrix product"], cost.kinds["convolution bias"]) == (2 * 3 * 5 * 4, bias)


class _Functional(nn.Module):
    """The same work as `_Modular`, called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(F.batch_norm(F.conv2d(x, self.conv.weight), self.norm.running_mean, self.norm.running_var))
        return F.linear(F.max_pool2d(x, 2).mean((2, 3)), self.fc.weight, self.fc.bias)


def test_functions_count_as_modules_do():
    modular = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )
    assert count(_Functional(), (3, 10, 10)).kinds == count(modular, (3, 10, 10)).kinds
    assert count(modular, (3, 10, 10)).kinds["norm"] == 6 * 64
    assert count(modular, (3, 10, 10)).kinds["pooling"] == 6 * 64 + 6 * 16


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_attention_counts_its_products_whatever_the_device_and_grad_mode(device, mode):
    with torch.device(device):
        layer = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, batch_first=True)
    with mode():
        cost = count(layer, (10, 64))
    assert cost.macs == 10 * 64 * 64 * 4 + 2 * 10 * 10 * 64 + 2 * 10 * 64 * 128


def test_attention_as_kernel_generation_counts_queries_against_keys():
    generator = LocalAttentionKernelGenerator(
        8, 3, groups=2, head_channels=4, softmax=False, relative_position=False, stride=1
    )
    layer = Involution2d(8, 8, kernel_size=3, groups=2, kernel_generator=generator)
    assert count(layer, (8, 5, 7)).kinds["involution"] == 2 * (3 * 3 * 8 * 35)
    assert count(layer, (8, 5, 7)).kinds["convolution"] == 2 * 8 * 8 * 35


def test_meta_and_real_models_cost_the_same():
    with torch.device("meta"):
        meta = create_timm_model("rednet26", num_classes=10)
    assert count(meta, (3, 65, 33)) == count(create_timm_model("rednet26", num_classes=10), (3, 65, 33))


def test_counting_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    count(net, (3, 8, 8))
    assert [module.training for module in net.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


def test_parameters_are_counted_once_and_frozen_ones_apart():
    shared = nn.Linear(5, 5)
    net = nn.Sequential(shared, shared, nn.LazyLinear(3))
    shared.bias.requires_grad_(False)
    cost = count(net, (5,))
    assert (cost.params, cost.trainable_params) == (25 + 5 + 15 + 3, 25 + 15 + 3)


def test_operators_without_a_formula_are_named():
    torchvision = pytest.importorskip("torchvision", reason="its custom operators are the example")
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])

    class Align(nn.Module):
        def forward(self, x):
            return torchvision.ops.roi_align(x, [box], 2)

    assert count(Align(), (3, 8, 8)).uncounted == ("torchvision.roi_align",)


def test_run_calls_the_model_as_it_wants_to_be_called():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1, bias=False)

        def forward(self, images):
            return [self.conv(image) for image in images]

    assert count(Pair(), (3, 4, 4), run=lambda model, x: model([x, x])).macs == 2 * 3 * 2 * 16


@pytest.mark.parametrize(
    ("model", "input_size", "error", "words"),
    [
        ("rednet50", (3, 8, 8), TypeError, r"model must be a torch.nn.Module, got str; create the network first"),
        (nn.ReLU(), 224, TypeError, r"input_size must be the size of one input, such as \(3, 224, 224\), got 224"),
        (nn.ReLU(), (), TypeError, r"input_size must be the size of one input, such as \(3, 224, 224\), got \(\)"),
        (nn.ReLU(), (3, 8.5), TypeError, r"input_size must be an int or a tuple of 2 ints, got \(3, 8.5\)"),
        (nn.ReLU(), (3, 0, 8), ValueError, r"input_size must be at least 1, got \(3, 0, 8\)"),
    ],
)
def test_count_refuses_in_words(model, input_size, error, words):
    with pytest.raises(error, match=words):
        count(model, input_size)


# The tables
