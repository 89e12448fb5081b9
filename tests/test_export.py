"""ONNX: the exported graph in onnxruntime against PyTorch, with dynamic batch and sizes."""

import pytest
import torch
from torch import nn

from involution import Involution1d, Involution2d, Involution3d
from involution.export import to_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def run(file, x):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(("generator", "stride"), [("bottleneck", 2), ("attention", 1)])
def test_dynamic_batch_and_size(tmp_path, generator, stride):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Involution2d(32, 32, 3, stride, kernel_generator=generator), nn.ReLU())
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


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ImportError, match=r'onnxscript is missing; install it with: pip install "involution\[export\]"'
    ):
        to_onnx(Involution2d(16), (torch.randn(1, 16, 4, 4),), tmp_path / "m.onnx")
