import copy
import re

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune

from involution import Involution1d, Involution2d, Involution3d, replace_convolutions
from involution.counting import count
from involution.kernel_generation import LinearKernelGenerator


def output_shapes(model, x, layers):
    shapes = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: shapes.update({name: o.shape}))
        for name in layers
    ]
    with torch.inference_mode():
        model(x)
    for handle in handles:
        handle.remove()
    return shapes


def test_a_resnet_becomes_its_involution_net():
    model = timm.create_model("resnet50", num_classes=4).eval()
    x = torch.randn(1, 3, 65, 64)
    layers = [name for name, _ in model.named_modules()]
    before = output_shapes(model, x, layers)
    names = replace_convolutions(model, kernel_size=7, reduction=8).replaced
    assert len(names) == 16
    assert names[0] == "layer1.0.conv2"
    assert output_shapes(model, x, layers) == before
    assert isinstance(model.layer1[0].conv2, Involution2d)
    assert model.layer1[0].conv2.kernel_generator.reduce.out_channels == 8
    assert not model.layer1[0].conv2.training


def test_bias_device_dtype_and_other_dimensions_are_kept():
    model = nn.Sequential(nn.Conv1d(16, 32, 5, 2, "valid", dilation=2, bias=True, dtype=torch.float64, device="meta"))
    replace_convolutions(model, kernel_generator="linear")
    layer = model[0]
    assert isinstance(layer, Involution1d)
    assert isinstance(layer.kernel_generator, LinearKernelGenerator)
    assert layer.bias is not None
    assert (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((5,), (2,), (0,), (2,))
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert {p.dtype for p in layer.parameters()} == {torch.float64}


@pytest.mark.parametrize(("padding", "stride"), [("valid", 1), ("valid", 2), ("same", 1), (1, 2)])
@pytest.mark.parametrize("kernel_size", [3, 7])
def test_every_padding_keeps_the_output_size(padding, stride, kernel_size):
    model, x = nn.Sequential(nn.Conv2d(16, 16, 3, stride, padding, dilation=2)), torch.randn(1, 16, 20, 21)
    shape = model(x).shape
    assert replace_convolutions(model, kernel_size=kernel_size).replaced == ("0",)
    assert model(x).shape == shape


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_the_padding_mode_is_kept(mode):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, 2, padding=1, padding_mode=mode))
    x = torch.randn(1, 16, 9, 8)
    size = model(x).shape
    replace_convolutions(model, kernel_size=5)
    assert (model[0].padding_mode, model[0].padding) == (mode, (2, 2)) and model(x).shape == size


def test_new_weights_train_and_are_nobody_else_s():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)).requires_grad_(False)
    model[1].weight = model[0].weight
    replace_convolutions(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not {*map(id, model[0].parameters())} & {*map(id, model[1].parameters())}


HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("register", HOOKS)
def test_what_a_hook_watches_is_left(register):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1))
    handle = getattr(model[0], register)(lambda *seen: None)
    report = replace_convolutions(model)
    assert report.replaced == ("1",)
    assert report.left[0].outcome == "it is watched by a hook, which an involution would be without; remove that first"
    handle.remove()
    assert replace_convolutions(model).replaced == ("0",)


def test_where_chooses():
    model = nn.ModuleDict({"neck": nn.Conv2d(16, 16, 3, padding=1), "head": nn.Conv2d(16, 16, 3, padding=1)})
    assert replace_convolutions(model, lambda name, module: name == "neck").replaced == ("neck",)
    assert isinstance(model["head"], nn.Conv2d)


@pytest.mark.parametrize(
    ("kernel_size", "where", "words"),
    [
        (
            4,
            lambda name, module: name == "1",
            r"1 has a kernel of \(3, 3\) and padding \(1, 1\); a kernel of \(4, 4\) cannot keep its output size",
        ),
        (None, lambda name, module: name == "0", "0 is no convolution but a ReLU"),
    ],
)
def test_refusals_leave_the_model_as_it_was(kernel_size, where, words):
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1))
    with pytest.raises(ValueError, match=words):
        replace_convolutions(model, where, kernel_size=kernel_size)
    assert [type(m) for m in model] == [nn.ReLU, nn.Conv2d, nn.Conv2d]
    with pytest.raises(TypeError, match="itself a convolution"):
        replace_convolutions(nn.Conv2d(16, 16, 3))


def test_what_could_not_keep_its_size_is_left_where_nobody_chose_it():
    """As nets have that cut images into patches: even kernels that do not overlap."""
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 2, 2), nn.Conv2d(32, 32, 7, padding=0))
    x = torch.randn(2, 16, 20, 20)
    size = model(x).shape
    report = replace_convolutions(model, kernel_size=5)
    assert report.replaced == ("0",) and model(x).shape == size
    assert "its kernel is 2×2, with one of 5×5 its output would have another size" in str(report)
    assert "its kernel is 7×7, with one of 5×5" in str(report)


def test_channels_that_an_argument_does_not_divide_are_refused():
    model = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1))
    with pytest.raises(ValueError, match="0 cannot be replaced: out_channels must be divisible by group_channels"):
        replace_convolutions(model, group_channels=16)
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize(("channels", "group_channels"), [(72, 12), (24, 12), (104, 13), (64, 16), (17, 1), (48, 16)])
def test_groups_are_chosen_per_layer(channels, group_channels):
    model = nn.Sequential(nn.Conv2d(16, channels, 3, padding=1))
    replace_convolutions(model)
    assert model[0].groups == channels // group_channels
    assert model(torch.randn(1, 16, 5, 5)).shape == (1, channels, 5, 5)


def test_a_module_in_two_places_is_replaced_in_both():
    shared = nn.Conv2d(16, 16, 3, padding=1)
    block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": block, "d": block})
    report = replace_convolutions(model)
    assert report.replaced == ("a", "b.0", "c.0", "d.0") and len(report.convolutions) == 2
    assert isinstance(model["a"], Involution2d) and model["b"][0] is model["a"]
    assert isinstance(block[0], Involution2d)


class Standardised(nn.Conv2d):
    """Computes something of its own."""

    def forward(self, x):
        return super().forward(x - x.mean())


class Named(nn.Conv2d):
    """Differs in its constructor alone, as torchvision's Conv3DSimple does."""

    def __init__(self):
        super().__init__(16, 16, 3, padding=1)


COMPUTED = "its weight is computed from others (a weight norm, a spectral norm, pruning); remove that first"


def test_subclasses_are_replaced_where_that_is_right_and_otherwise_reported():
    from timm.layers import Conv2dSame
    from torchvision.models.video.resnet import Conv3DSimple

    make = {
        "named": Named(),
        "same": Conv2dSame(16, 16, 3, stride=2),
        "volume": Conv3DSimple(16, 16),
        "own": Standardised(16, 16, 3, padding=1),
        "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1)),
        "spectral norm": nn.utils.spectral_norm(nn.Conv2d(16, 16, 3, padding=1)),
        "pruned": prune.l1_unstructured(nn.Conv2d(16, 16, 3, padding=1), "weight", 0.5),
        "lazy": nn.LazyConv2d(16, 3, padding=1),
        "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
        "pointwise": nn.Conv2d(16, 16, 1),
        "stem": nn.Conv2d(3, 16, 3, padding=1),
        "transposed": nn.ConvTranspose2d(16, 16, 3),
    }
    model = nn.ModuleDict(make)
    sizes = {size: model["same"](torch.randn(1, 16, *size)).shape for size in ((9, 9), (8, 8), (7, 10))}
    report = replace_convolutions(model)
    assert report.replaced == ("named", "same", "volume")
    assert isinstance(model["volume"], Involution3d)
    assert all(model["same"](torch.randn(1, 16, *size)).shape == shape for size, shape in sizes.items())
    reasons = {entry.names[0]: entry.outcome for entry in report.left}
    assert reasons == {
        "own": "Standardised computes something of its own",
        "weight norm": COMPUTED,
        "spectral norm": COMPUTED,
        "pruned": COMPUTED,
        "lazy": "it has no channels before its first input; run the model once",
        "depthwise": "it is depthwise; depthwise=True replaces such, too",
        "pointwise": "it is pointwise",
        "stem": "3 input channels, fewer than 16",
    }
    assert all(model[name] is make[name] for name in reasons)
    # What is chosen by name is asked for, what cannot be done is not done.
    chosen = replace_convolutions(model, lambda name, module: name in ("depthwise", "stem", "own"))
    assert chosen.replaced == ("depthwise", "stem") and chosen.left[0].names == ("own",)
    # All that mixes channels afterwards is in the table, in the order of the model; what makes kernels is not.
    assert [entry.names[0] for entry in chosen.convolutions] == [*list(make)[3:11]]
    outcomes = {entry.names[0]: entry.outcome for entry in chosen.left}
    assert outcomes.pop("own") == "Standardised computes something of its own"
    assert set(outcomes.values()) == {"it is not chosen"} and str(chosen).startswith("2 of 8 convolutions replaced")


def test_a_convolution_that_is_chosen_in_one_of_its_places_is_in_the_table_twice():
    shared = nn.Conv2d(16, 16, 3, padding=1)
    model = nn.Sequential(shared, shared)
    report = replace_convolutions(model, lambda name, module: name == "1")
    assert [(entry.names, entry.replaced) for entry in report.convolutions] == [(("0",), False), (("1",), True)]
    assert model[0] is shared and model[1] is not shared


def test_depthwise_convolutions_on_request():
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32))
    assert replace_convolutions(model, depthwise=True).replaced == ("0",)


def test_a_dry_run_reports_what_a_run_does():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3, padding=1)).eval()
    before = [*model], {name: value.clone() for name, value in model.state_dict().items()}
    would = replace_convolutions(model, input_size=(3, 8, 8), dry_run=True)
    assert [*model] == before[0] and model.state_dict().keys() == before[1].keys()
    did = replace_convolutions(model, input_size=(3, 8, 8))
    assert str(would) == str(did) and would.replaced == did.replaced == ("2",)
    assert did.params == (
        3 * 16 * 9 + 16 + 32 + 16 * 24 * 9 + 24,
        sum(parameter.numel() for parameter in model.parameters()),
    )
    assert did.macs == (64 * (27 * 16 + 144 * 24), count(model, (3, 8, 8)).macs)
    table = str(did).splitlines()
    assert table[0] == "1 of 2 convolutions replaced" and table[3].endswith("3×3 involution of 2 groups")
    assert table[-1] == f"multiply-adds: {did.macs[0]:,} before, {did.macs[1]:,} after"


def test_names_in_the_place_of_a_function():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    for where, test in (("layer4", "name.startswith('layer4')"), (["0"], "name in ['0']")):
        words = (
            f"where must be a function of a name and a module, got {where!r}; such as where=lambda name, module: {test}"
        )
        with pytest.raises(TypeError, match=re.escape(words)):
            replace_convolutions(model, where=where)


@pytest.mark.parametrize("size", [0, -3, (7, 7), "7", 3.0])
def test_a_kernel_size_that_is_none(size):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    with pytest.raises(
        TypeError, match="kernel_size must be one whole number from 1 on, for every direction alike, got"
    ):
        replace_convolutions(model, kernel_size=size)


@pytest.mark.parametrize("size", [(16, 8), (3, 8, 8), (16, 8, 8, 8, 8), 3, "x", (16, 0, 8)])
def test_a_size_of_the_input_that_the_model_cannot_take(size):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
    with pytest.raises(
        ValueError, match=r"the model cannot be run on an input of size .*; give the size of one input"
    ) as said:
        replace_convolutions(model, input_size=size)
    assert "\n" not in str(said.value) and type(model[0]) is nn.Conv2d


def test_a_function_that_cannot_judge_a_module_is_told_which():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    for where, words in (
        (
            lambda name, module: 1 / 0,
            "where cannot judge 0, a ReLU: ZeroDivisionError, division by zero; let it return True",
        ),
        (
            lambda name, module: module.kernel_size[0] > 1,
            "where cannot judge 0, a ReLU: AttributeError, 'ReLU' object has no",
        ),
        (lambda name, module: torch.ones(2), "where cannot judge 0, a ReLU: RuntimeError, Boolean value of Tensor"),
        (lambda name: True, "where cannot judge 0, a ReLU: TypeError, .* takes 1 positional argument but 2 were given"),
    ):
        with pytest.raises(ValueError, match=words):
            replace_convolutions(model, where)
        assert type(model[1]) is nn.Conv2d


def test_a_model_that_fails_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(7, 2))
    words = r"the model cannot be run on an input of size \(16, 4, 4\): .*cannot be multiplied.*; give the size of one input"
    with pytest.raises(ValueError, match=words):
        replace_convolutions(model, input_size=(16, 4, 4))
    assert type(model[0]) is nn.Conv2d


class Doubled(nn.Conv2d):
    """Replaces what torch's forward calls."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, 2 * weight, bias)


def test_methods_that_an_object_or_a_subclass_replaces_are_seen():
    def convolution(kind=nn.Conv2d, **options):
        return kind(16, 16, 3, padding=1, **options)

    model = nn.ModuleDict({"own": convolution(), "inner": convolution(Doubled), "plain": convolution()})
    model["own"].forward = lambda x: x
    report = replace_convolutions(model)
    assert report.replaced == ("plain",)
    assert {entry.names[0]: entry.outcome for entry in report.left} == {
        "own": "Conv2d computes something of its own",
        "inner": "Doubled computes something of its own",
    }
    model = nn.Sequential(convolution(dtype=torch.complex64))
    assert replace_convolutions(model).left[0].outcome == "its numbers are complex64, an involution's real ones"


def test_what_is_no_model_and_arguments_that_no_layer_has():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        replace_convolutions([nn.Conv2d(16, 16, 3)])
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    for options, words in (({"strid": 2}, "0 cannot be replaced: .*'strid'"), ({"reduction": 0}, "0 cannot be repl")):
        with pytest.raises((TypeError, ValueError), match=words):
            replace_convolutions(model, **options)
    with pytest.raises(TypeError, match="kernel_size must be one whole number"):
        replace_convolutions(model, kernel_size=True)
    generator = Involution2d(16, 16, 3).kernel_generator
    with pytest.raises(
        TypeError, match="is one BottleneckKernelGenerator, whose weights 2 layers would share; pass a name"
    ):
        replace_convolutions(nn.Sequential(model, copy.deepcopy(model)), kernel_generator=generator)
    assert type(model[0]) is nn.Conv2d


def test_a_model_that_fails_with_involutions_is_left_as_it_was():
    class Peculiar(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x):
            return self.conv(x) + self.conv.weight.sum()

    model = Peculiar()
    words = r"with the involutions the model cannot be run any more on an input of size \(16, 4, 4\): .*'weight'; leave out by"
    with pytest.raises(ValueError, match=words):
        replace_convolutions(model, input_size=(16, 4, 4))
    assert type(model.conv) is nn.Conv2d
