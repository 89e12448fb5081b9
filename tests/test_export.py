"""ONNX: the exported graph in onnxruntime against PyTorch, with dynamic batch and sizes."""

import sys

import pytest
import torch
from cases import CASES, relative_error
from engines import ENGINE_CASES, EveryCase, by_case, tensors_of
from torch import nn

from involution import Involution1d, Involution2d, Involution3d, involution2d
from involution.errors import ExportError, InvolutionError
from involution.export import decompositions, to_onnx, translations

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def run_all(file, *tensors):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
    return [torch.from_numpy(output) for output in outputs]


def run(file, x):
    (output,) = run_all(file, x)
    return output


class Operator(nn.Module):
    def forward(self, x, h):
        return involution2d(x, h)


@pytest.fixture(scope="module")
def every_case(tmp_path_factory):
    """What PyTorch and onnxruntime return for every case and operator."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("every_case") / "m.onnx"
    inputs = tuple(tensor for case in ENGINE_CASES for tensor in tensors_of(case))
    # Without gradients the operator takes scale, offset and ReLU along.
    with torch.no_grad():
        expected = EveryCase()(*inputs)
        # Not optimised, which takes a minute for so many nodes.
        table = translations()
        torch.onnx.export(
            EveryCase(), inputs, file, dynamo=True, verbose=False, optimize=False, custom_translation_table=table
        )
    return by_case(expected), by_case(run_all(file, *inputs))


@pytest.mark.parametrize("case", ENGINE_CASES, ids=str)
def test_every_case(every_case, case):
    for expected, actual in zip(*(results[case] for results in every_case), strict=True):
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-6


@pytest.mark.parametrize(
    ("generator", "stride", "kernel_size"),
    [
        ("bottleneck", 2, 3),
        ("attention", 1, 3),
        ("sasa", 1, 3),
        ("san_pairwise", 1, 3),
        ("san_patchwise", 1, 3),
        ("local_relation", 1, 3),
        ("outlook", 1, 5),
    ],
)
def test_dynamic_batch_and_size(tmp_path, generator, stride, kernel_size):
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), Involution2d(32, 32, kernel_size, stride, kernel_generator=generator), nn.ReLU()
    )
    model(torch.randn(4, 3, 16, 16))
    batch, height, width = (
        torch.export.Dim(n, min=8 if n != "batch" else 1, max=512) for n in ("batch", "height", "width")
    )
    to_onnx(model, (torch.randn(2, 3, 16, 18),), tmp_path / "m.onnx", dynamic_shapes=({0: batch, 2: height, 3: width},))
    assert model.training
    model.eval()
    for shape in ((2, 3, 16, 18), (5, 3, 11, 23)):
        x = torch.randn(shape)
        torch.testing.assert_close(run(tmp_path / "m.onnx", x), model(x).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", [Involution1d, Involution3d])
def test_other_dimensions(tmp_path, layer):
    model = layer(16, 16, 3, 2, dilation=2).eval()
    x = torch.randn(2, 16, *(9, 8, 7)[: model._dims])
    to_onnx(model, (x,), tmp_path / "m.onnx")
    torch.testing.assert_close(run(tmp_path / "m.onnx", x), model(x).detach(), atol=1e-5, rtol=1e-4)


def test_rednet(tmp_path):
    from involution.models import RedNet

    model = RedNet(layers=(1, 1, 1, 1), num_classes=3, kernel_size=3).eval()
    x = torch.randn(1, 3, 64, 64)
    to_onnx(model, (x,), tmp_path / "rednet.onnx")
    torch.testing.assert_close(run(tmp_path / "rednet.onnx", x), model(x).detach(), atol=1e-4, rtol=1e-3)


def test_the_graph_of_rednet50_is_small(tmp_path):
    from involution.models import rednet50

    model, file = rednet50(), tmp_path / "rednet50.onnx"
    to_onnx(model, (torch.randn(1, 3, 224, 224),), file)
    # 62.2 MB of parameters, some of which are folded into others.
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert 0.95 * weights < file.stat().st_size < weights + 1e6
    assert len(onnx.load(file).graph.node) < 800
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("operator", ["standard", "custom"])
def test_another_opset(tmp_path, operator):
    layer, x, file = Involution2d(16, kernel_size=3), torch.randn(1, 16, 8, 8), tmp_path / "m.onnx"
    for version in (12, 17):
        with pytest.raises(ValueError, match=f"opset_version must be at least 18, got {version}"):
            to_onnx(layer, (x,), file, opset_version=version, operator=operator)
    words = "Involution2d cannot be exported to ONNX in opset 99, only in 18; leave opset_version out, or name one"
    with pytest.raises(ExportError, match=words):
        to_onnx(layer, (x,), file, opset_version=99, operator=operator)
    assert not file.exists()
    to_onnx(layer, (x,), file, opset_version=20, operator=operator)
    assert {opset.domain: opset.version for opset in onnx.load(file).opset_import}[""] == 20


def test_half_and_double_precision(tmp_path):
    for dtype, tolerance in ((torch.float16, 2e-3), (torch.float64, 1e-14)):
        x, h, _ = CASES[2].tensors(dtype)
        to_onnx(Operator(), (x, h), tmp_path / "m.onnx")
        (actual,) = run_all(tmp_path / "m.onnx", x, h)
        assert actual.dtype == dtype
        assert relative_error(actual, involution2d(x, h)) < tolerance


def test_what_is_no_number_spreads_no_further_than_is_said(tmp_path):
    x, h = torch.ones(1, 1, 7, 30), torch.ones(1, 1, 3, 3, 7, 30)
    to_onnx(Operator(), (x, h), tmp_path / "m.onnx")
    # To the tiles of seven pixels that have a window with that pixel in it: the windows of rows 2 to 4, columns 9 to 11.
    x[..., 3, 10] = torch.nan
    spread = torch.zeros(1, 1, 7, 30, dtype=torch.bool)
    spread[..., 2:5, 7:14] = True
    (actual,), expected = run_all(tmp_path / "m.onnx", x, h), involution2d(x, h)
    assert actual.isnan().equal(spread) and spread[expected.isnan()].all()
    assert actual[~spread].equal(expected[~spread])
    # The first tap of the first pixel lies outside, where PyTorch's operator reads nothing.
    x, h[0, 0, 0, 0, 0, 0] = torch.ones(1, 1, 7, 30), torch.inf
    (actual,), expected = run_all(tmp_path / "m.onnx", x, h), involution2d(x, h)
    assert expected.isfinite().all() and actual[0, 0, 0, 0].isnan()
    assert actual.flatten()[1:].equal(expected.flatten()[1:])


def test_torchs_own_function_takes_the_translations(tmp_path):
    model, x = Involution2d(16).eval(), torch.randn(1, 16, 9, 8)
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"No ONNX function found for .*involution\.forward_of_span"):
        torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    file = tmp_path / "m.onnx"
    torch.onnx.export(model, (x,), file, dynamo=True, verbose=False, custom_translation_table=translations())
    torch.testing.assert_close(run(file, x), model(x).detach(), atol=1e-5, rtol=1e-4)


def test_decompositions_are_the_same_in_pytorch():
    for generator, stride in (("bottleneck", 2), ("attention", 1)):
        model, x = Involution2d(16, 16, 5, stride, kernel_generator=generator).eval(), torch.randn(1, 16, 9, 8)
        program = torch.export.export(model, (x,)).run_decompositions(decompositions())
        assert "involution" not in {getattr(node.target, "namespace", "") for node in program.graph.nodes}
        torch.testing.assert_close(program.module()(x), model(x))


def test_the_file_says_nothing_of_the_machine(tmp_path):
    to_onnx(Involution2d(16), (torch.randn(1, 16, 9, 8),), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in content and b"stack_trace" not in content


def test_every_module_keeps_its_mode(tmp_path):
    model = nn.Sequential(Involution2d(16), nn.Dropout(0.5).eval())
    to_onnx(model, (torch.randn(1, 16, 9, 8),), tmp_path / "m.onnx")
    assert [module.training for module in model] == [True, False] and model.training


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ImportError, match=r'onnxscript is missing; install it with: pip install "involution\[export\]"'
    ) as raised:
        to_onnx(Involution2d(16), (torch.randn(1, 16, 4, 4),), tmp_path / "m.onnx")
    assert isinstance(raised.value, InvolutionError)


class DependsOnData(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class HasAnUnknownOperator(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DependsOnData(), r"DependsOnData cannot be exported to ONNX: .+; replace what does that, or export the part"),
        (HasAnUnknownOperator(), r"HasAnUnknownOperator cannot be exported to ONNX: No ONNX function .*linalg_eig"),
    ],
)
def test_what_cannot_be_exported_leaves_the_file_as_it_was(tmp_path, model, message):
    file = tmp_path / "m.onnx"
    file.write_text("old")
    with pytest.raises(ExportError, match=message):
        to_onnx(model, (torch.randn(4, 4),), file)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    assert model.training


def test_what_the_model_says_of_its_inputs_is_handed_on(tmp_path):
    with pytest.raises(ValueError, match="input must have 4 dimensions, 16 channels"):
        to_onnx(Involution2d(16), (torch.randn(1, 8, 4, 4),), tmp_path / "m.onnx")


def test_files_that_cannot_be_written_are_refused(tmp_path):
    layer, x = Involution2d(16), torch.randn(1, 16, 4, 4)
    with pytest.raises(ExportError, match=r"cannot write .*: it is a folder; name a file in a folder that exists"):
        to_onnx(layer, (x,), tmp_path)
    with pytest.raises(ExportError, match=r"cannot write .*: there is no folder .*nowhere; name a file"):
        to_onnx(layer, (x,), tmp_path / "nowhere" / "m.onnx")
    long = tmp_path / f"{'m' * 300}.onnx"
    with pytest.raises(ExportError, match=r"cannot write .*: File name too long"):
        to_onnx(layer, (x,), long)
