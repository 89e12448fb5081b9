"""Files for other engines: each gives what PyTorch gives, or is not there."""

import shutil
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from involution import Involution2d, fold_batch_norms
from involution.errors import ExportError, MissingPackageError
from involution.export import Parity, checked, export, image_shapes, load_pt2, to_openvino, to_pt2
from involution.export.checked import difference
from involution.export.sessions import flat, open_onnx, open_openvino

HAS_ONNX = pytest.mark.skipif(
    find_spec("onnxscript") is None or find_spec("onnxruntime") is None,
    reason="onnxscript or onnxruntime is not installed",
)
HAS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def net():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Involution2d(16, kernel_size=3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    )
    for _ in range(3):
        model(2 * torch.randn(2, 3, 16, 16) + 1)
    return fold_batch_norms(model.eval())[0]


class OfMaps(nn.Module):
    """A net with several outputs by name, as a backbone with a neck."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = Involution2d(3, 16, kernel_size=3), Involution2d(16, kernel_size=3, stride=2)

    def forward(self, images):
        fine = self.fine(images)
        return {"1": fine, "0": self.coarse(fine)}


def test_programs_serve_every_size(tmp_path):
    model, file = net(), tmp_path / "net.pt2"
    to_pt2(model, (torch.randn(2, 3, 16, 18),), file, dynamic_shapes=image_shapes(least=8), compiled=False)
    loaded = load_pt2(file)
    for shape in ((2, 3, 16, 18), (1, 3, 33, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(loaded(x), model(x))


@HAS_COMPILER
def test_packages_are_compiled_and_equal(tmp_path):
    model, x = net(), torch.randn(2, 3, 16, 16)
    others = [(torch.randn(1, 3, 24, 40),)]
    parity = export(
        model, (x,), tmp_path / "net.pt2", format="pt2", dynamic_shapes=image_shapes(least=8), others=others
    )
    assert [shapes for shapes, _ in parity.differences] == ["2×3×16×16", "1×3×24×40"]
    assert all(value < 1e-5 for _, value in parity.differences)
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        assert any(name.endswith(".so") for name in archive.namelist())
    torch.testing.assert_close(load_pt2(tmp_path / "net.pt2")(x), model(x).detach())


def test_without_a_compiler_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ExportError, match=r"needs a C\+\+ compiler, and there is no no-such-compiler; install one, .*compiled"
    ):
        to_pt2(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_a_pt2_file_that_is_none_is_refused(tmp_path):
    file = tmp_path / "net.pt2"
    with pytest.raises(ExportError, match=r"net\.pt2 cannot be read: .*No such file"):
        load_pt2(file)
    file.write_bytes(b"no archive")
    with pytest.raises(ExportError, match=r"net\.pt2 cannot be read: File is not a zip file; write it anew"):
        load_pt2(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("other/content", "x")
    with pytest.raises(ExportError, match=r"net\.pt2 is no \.pt2 file of PyTorch"):
        load_pt2(file)
    to_pt2(net(), (torch.randn(1, 3, 8, 8),), file, compiled=False)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ExportError, match=r"is damaged in|cannot be read|cannot be loaded here"):
        load_pt2(file)


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(3) + 1


@dataclass
class Outputs:
    double: torch.Tensor
    half: torch.Tensor


torch.export.register_dataclass(Outputs, serialized_type_name="test_export_files.Outputs")


class Difference(nn.Module):
    def forward(self, x, y):
        return Outputs(2 * x - y, y / 2)


@HAS_ONNX
@pytest.mark.parametrize(("stride", "padding", "kernel_size"), [(2, 2, 3), (3, 4, 3), (2, (3, 0), 5)])
def test_windows_whose_middle_lies_outside_the_map(tmp_path, stride, padding, kernel_size):
    layer = Involution2d(16, kernel_size=kernel_size, stride=stride, padding=padding).eval()
    sizes = image_shapes(least=8)
    parity = export(
        layer,
        (torch.randn(2, 16, 12, 13),),
        tmp_path / "a.onnx",
        dynamic_shapes=sizes,
        others=[(torch.randn(1, 16, 9, 8),)],
    )
    assert all(value < 1e-5 for _, value in parity.differences)


@HAS_ONNX
def test_inputs_are_compared_as_they_were(tmp_path):
    """A model may write into them, they may need gradients, and be given twice."""
    x = torch.randn(2, 3)
    other = torch.randn(2, 3, requires_grad=True)
    parity = export(InPlace(), (x.clone(),), tmp_path / "a.onnx", others=[(x,), (other.detach(),)])
    assert parity.differences == (("2×3", 0.0),)
    kept = x.clone()
    export(InPlace(), (x,), tmp_path / "b.onnx")
    torch.testing.assert_close(x, kept)
    for format, file in (("onnx", "c.onnx"), ("pt2", "c.pt2")):
        options = {} if format == "onnx" else {"compiled": False}
        parity = export(Difference(), (x, x), tmp_path / file, format=format, others=[(x, other)], **options)
        assert all(value < 1e-6 for _, value in parity.differences)


@HAS_ONNX
def test_maps_by_name_come_out_in_order(tmp_path):
    file = tmp_path / "maps.onnx"
    model, x = OfMaps().eval(), torch.randn(2, 3, 12, 10)
    parity = export(model, (x,), file, dynamic_shapes=image_shapes(least=8), others=[(torch.randn(1, 3, 9, 15),)])
    assert parity.engine.startswith("ONNX Runtime ") and len(parity.differences) == 2
    assert "largest relative difference of ONNX Runtime" in str(parity) and "at 1×3×9×15" in str(parity)
    assert difference(open_onnx(file)([x]), list(model(x).values())) < 1e-5


@HAS_ONNX
def test_what_differs_is_not_left_behind(tmp_path, monkeypatch):
    file = tmp_path / "net.onnx"
    file.write_text("old")

    def opened(path, **options):
        run = open_onnx(path, **options)
        return lambda inputs: [output + 0.01 * output.abs().max() for output in run(inputs)]

    monkeypatch.setattr(checked, "open_onnx", opened)
    with pytest.raises(
        ExportError, match=r"net\.onnx was not written: ONNX Runtime .* differs .* by 1\.0e-02 .* at 1×3×8×8"
    ):
        export(net(), (torch.randn(1, 3, 8, 8),), file)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    assert export(net(), (torch.randn(1, 3, 8, 8),), file, tolerance=0.02).differences[0][1] == pytest.approx(
        0.01, rel=0.1
    )


@HAS_ONNX
def test_a_size_that_the_file_does_not_take_is_refused(tmp_path):
    with pytest.raises(
        ExportError, match=r"wrote no output for inputs of 1×3×9×9: .*; export the model for other sizes"
    ):
        export(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.onnx", others=[(torch.randn(1, 3, 9, 9),)])
    assert not list(tmp_path.iterdir())


class Product(nn.Module):
    """Multiplies, without a convolution."""

    def forward(self, x):
        return (x @ x.mT).relu()


@HAS_ONNX
def test_types_of_numbers_that_an_engine_has_not(tmp_path):
    layer, x = Involution2d(16, kernel_size=3).eval(), torch.randn(1, 16, 8, 8)
    words = (
        r"net\.onnx was not written: ONNX Runtime cannot load it: Could not find an implementation for Conv\(\d+\) .*; "
        "export the model in float32 or float16"
    )
    for operator in ("standard", "custom"):
        with pytest.raises(ExportError, match=words) as said:
            export(layer.double(), (x.double(),), tmp_path / "net.onnx", operator=operator)
        assert "partial" not in str(said.value)
    for format, ending, engine in (("onnx", "onnx", "ONNX Runtime"), ("openvino", "xml", "OpenVINO")):
        with pytest.raises(
            ExportError, match=f"inputs of bfloat16 cannot be .*{engine} is handed .* in float32 or float16"
        ):
            export(layer.bfloat16(), (x.bfloat16(),), tmp_path / f"net.{ending}", format=format)
    assert not list(tmp_path.iterdir())
    # What has no convolution, every engine of ONNX has in float64.
    assert export(Product(), (x.double(),), tmp_path / "net.onnx").differences[0][1] < 1e-14
    assert export(layer.half(), (x.half(),), tmp_path / "net.onnx").differences[0][1] < 1e-2


def test_what_openvino_computes_less_precisely_is_said(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    layer, x = Involution2d(16, kernel_size=3).double().eval(), torch.randn(1, 16, 8, 8).double()
    words = "OpenVINO computes float64 in float32; export the model in float32, or allow the difference with tolerance=1e-04"
    with pytest.raises(ExportError, match=words):
        export(layer, (x,), tmp_path / "net.xml", format="openvino")
    parity = export(layer, (x,), tmp_path / "net.xml", format="openvino", tolerance=1e-4)
    assert 1e-9 < parity.differences[0][1] < 1e-5


@HAS_ONNX
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_file_that_its_engine_does_not_load_is_called_as_it_was_to_be(tmp_path, monkeypatch, format):
    def refuses(path, **options):
        try:
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : Load model from {path} failed: unknown operator Foo")
        except RuntimeError as error:
            raise ExportError("…") from error

    monkeypatch.setattr(checked, f"open_{format}", refuses)
    file = tmp_path / f"net.{format}"
    with pytest.raises(ExportError) as said:
        export(net(), (torch.randn(1, 3, 8, 8),), file, format=format, **{"pt2": {"compiled": False}}.get(format, {}))
    engine = {"onnx": "ONNX Runtime", "pt2": "PyTorch"}[format]
    assert str(said.value) == (
        f"{file} was not written: {engine} cannot load it: Load model from {file} failed: unknown operator Foo; replace in "
        "the model what that names"
    )


@HAS_ONNX
def test_without_the_engine_it_is_written_and_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    parity = export(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.onnx")
    assert str(parity).startswith("not compared with PyTorch: onnxruntime is missing; install it with")
    assert (tmp_path / "net.onnx").stat().st_size > 1000


def test_openvino_gives_what_pytorch_gives(tmp_path):
    pytest.importorskip("openvino", reason="openvino is not installed")
    file = tmp_path / "net.xml"
    others = [(torch.randn(1, 3, 21, 34),)]
    parity = export(
        net(),
        (torch.randn(2, 3, 16, 16),),
        file,
        format="openvino",
        dynamic_shapes=image_shapes(least=8),
        others=others,
    )
    assert len(parity.differences) == 2 and parity.engine.startswith("OpenVINO")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert str(tmp_path) not in file.read_text() and "/tmp" not in file.read_text()
    file.write_text("<net/>")
    with pytest.raises(ExportError, match=r"OpenVINO cannot load .*net\.xml: .*; export the model anew"):
        open_openvino(file)


def test_openvino_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        MissingPackageError, match=r'openvino is missing; install it with: pip install "involution\[export\]"'
    ):
        to_openvino(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "pt2"}, r"cannot write .*net\.onnx: a file of pt2 is known by the ending \.pt2; name it so"),
        ({"format": "openvino"}, r"known by the ending \.xml"),
    ],
)
def test_files_of_another_ending_are_refused(tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.onnx", **options)
    for writer in (to_pt2, to_openvino):
        with pytest.raises(ExportError, match="reads such a file only by the ending"):
            writer(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.other")


@pytest.mark.parametrize(
    ("option", "message"), [("opset_version", "of ONNX, not of pt2"), ("operator", "leave it out")]
)
def test_options_of_another_format_are_refused(tmp_path, option, message):
    options = {"opset_version": 18, "operator": "custom"}
    with pytest.raises(ValueError, match=message):
        export(net(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.pt2", format="pt2", **{option: options[option]})


def test_differences_are_relative_to_the_largest_value():
    one = torch.tensor([0.0, 2.0, -4.0])
    assert difference([one], [one]) == 0
    assert difference([one + torch.tensor([0.4, 0, 0])], [one]) == pytest.approx(0.1)
    assert difference([one, one + 1], [one, 10 * one]) == pytest.approx(37 / 40)
    assert difference([one], [one[:2]]) == difference([one], [one, one]) == float("inf")
    assert difference([one.log()], [one]) == float("inf")
    assert difference([one.log()], [one.log()]) == 0
    assert difference([torch.zeros(0)], [torch.zeros(0)]) == 0
    assert difference([torch.ones(1)], [torch.zeros(1)]) == 1


def test_outputs_are_taken_out_of_what_holds_them():
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [t.numel() for t in flat({"x": a, "y": [b, (c, None)], "z": "text"})] == [1, 2, 3]


def test_a_comparison_says_what_was_not_compared():
    assert str(Parity("onnx", (), "no engine")) == "not compared with PyTorch: no engine"


@HAS_ONNX
@pytest.mark.parametrize("names", [("one",), ("one", "one"), ("one", "two", "three")])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_names_that_the_outputs_cannot_have_are_refused(format, names, tmp_path):
    if format == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    file = tmp_path / f"net{checked.ENDINGS[format]}"
    with pytest.raises(ValueError, match="a name of its own for each of the 2 outputs"):
        export(OfTwo(), (torch.randn(1, 16, 8, 8),), file, format=format, output_names=names)
    assert not list(tmp_path.iterdir())


def test_a_package_has_no_names_of_outputs(tmp_path):
    with pytest.raises(ValueError, match=r"a \.pt2 file has none, leave them out"):
        export(OfTwo(), (torch.randn(1, 16, 8, 8),), tmp_path / "net.pt2", format="pt2", output_names=("one", "two"))
    assert not list(tmp_path.iterdir())


@HAS_ONNX
def test_outputs_of_onnx_have_the_names_that_they_are_given(tmp_path):
    import onnxruntime

    export(OfTwo(), (torch.randn(1, 16, 8, 8),), tmp_path / "net.onnx", output_names=("sum", "twice"))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["sum", "twice"]


@HAS_ONNX
def test_outputs_of_openvino_have_the_names_that_they_are_given(tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    file = tmp_path / "net.xml"
    export(OfTwo(), (torch.randn(1, 16, 8, 8),), file, format="openvino", output_names=("sum", "twice"))
    assert [output.any_name for output in openvino.Core().read_model(str(file)).outputs] == ["sum", "twice"]


class OfTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Involution2d(16, kernel_size=3)

    def forward(self, x):
        y = self.layer(x)
        return y + x, 2 * y
