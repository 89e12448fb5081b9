"""int8: what it is calibrated on, what stays in floating point, and the files that hold it."""

from importlib.util import find_spec
from pathlib import Path
from shutil import copy

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import normalize, resize, to_tensor

from involution import Involution2d, fold_batch_norms
from involution.commands.main import main
from involution.data.calibration import calibration_batches
from involution.errors import DataError, ExportError, MissingPackageError
from involution.export import export
from involution.export.checked import difference
from involution.export.onnx import to_onnx
from involution.export.openvino import extension
from involution.export.sessions import open_onnx, open_openvino
from involution.models import named, saved
from involution.models.segmentation import semantic_fpn

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
HAS_NNCF = pytest.mark.skipif(
    find_spec("nncf") is None or find_spec("openvino") is None, reason="nncf or openvino is not installed"
)

REDNET = str(Path(__file__).parents[1] / "src" / "involution" / "weights" / "rednet14_eighth.cifar10")


@pytest.fixture(scope="module")
def net():
    return named.load(REDNET)


@pytest.fixture(scope="module")
def batches(net, photographs):
    return calibration_batches(photographs, size=(32, 32), batch=4, mean=net.mean, std=net.std)


def test_calibration_takes_whole_batches_of_normalised_images(net, photographs):
    batches = calibration_batches(photographs, size=(24, 32), batch=5, mean=net.mean, std=net.std)
    assert [tuple(batch.shape) for batch in batches] == [(5, 3, 24, 32)] * 2
    assert batches[0].min() < -0.5 and batches[0].max() > 0.5
    # Ten of twelve, spread over the folder.
    for i, name in enumerate(("00", "01", "02", "03", "04", "06", "07", "08", "09", "10")):
        pixels = to_tensor(resize(Image.open(photographs / f"{name}.png"), [24, 32]))
        torch.testing.assert_close(batches[i // 5][i % 5], normalize(pixels, list(net.mean), list(net.std)))
    (grey,) = calibration_batches(photographs, size=(24, 32), batch=12, mean=(0.5,), std=(0.25,))
    assert grey.shape == (12, 1, 24, 32)


@pytest.mark.parametrize(
    ("batch", "channels", "words"),
    [
        (13, 3, "12 of the 13 images of a batch are in .*; give more images, or a smaller batch"),
        (1, 4, "images have 1 or 3 channels and the net takes 4; it cannot be calibrated on images"),
    ],
)
def test_images_that_cannot_calibrate(photographs, batch, channels, words):
    with pytest.raises(DataError, match=words):
        calibration_batches(photographs, size=(8, 8), batch=batch, mean=(0.5,) * channels, std=(0.5,) * channels)


def test_ranges_are_found_on_no_single_file_and_a_batch_of_two_is_the_least_of_some_files(photographs, tmp_path):
    net = {"size": (8, 8), "batch": 2, "mean": (0.5,), "std": (0.5,)}
    with pytest.raises(
        DataError, match=r"ranges are found on a folder of images such as the net will see, and .* is one file"
    ):
        calibration_batches(photographs / "00.png", **net)
    copy(photographs / "00.png", tmp_path)
    with pytest.raises(DataError, match=r"1 of the 2 images of a batch are in .*; give more images$"):
        calibration_batches(tmp_path, **net)


def test_onnx_leaves_kernels_and_involutions_in_floating_point(net, batches, tmp_path):
    file = tmp_path / "net.onnx"
    folded, _ = fold_batch_norms(net.net)
    parity = export(folded, (batches[0],), file, calibration=[(batch,) for batch in batches])
    ((shapes, found),) = parity.differences
    assert shapes == "4×3×32×32" and 1e-4 < found < 0.2
    with torch.no_grad():
        expected = torch.cat([net.net(batch) for batch in batches])
    actual = torch.cat([open_onnx(file)([batch])[0] for batch in batches])
    assert found == pytest.approx(difference([actual], [expected]), rel=1e-3)
    assert parity.agreement == (actual.argmax(1) == expected.argmax(1)).double().mean().item()
    involutions = to_onnx(folded, (batches[0],), tmp_path / "float.onnx")
    graph = onnx.load(file).graph
    assert not quantised_within(graph, involutions)
    # Four sums of blocks, and the classifier; the stem, and three convolutions of a block and its shortcut.
    others = {node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "Add")} - involutions
    assert len(others) == 4 + 1 + 1 + 4 * 3 and quantised_inputs(graph, others) == others


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
def test_an_activation_costs_nothing_beside_the_convolution_before_it(activation, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), activation(), nn.Conv2d(8, 8, 3), activation(), nn.Conv2d(8, 4, 1)).eval()
    inputs = [(torch.randn(2, 3, 12, 12),) for _ in range(2)]
    export(net, inputs[0], tmp_path / "net.onnx", calibration=inputs)
    assert operators_run(tmp_path / "net.onnx") == ["QuantizeLinear", *["QLinearConv"] * 3, "DequantizeLinear"]


def test_an_output_that_an_activation_reads_keeps_its_negative_values(tmp_path):
    class TwoLevels(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            first = self.first(x)
            return first, self.second(first.relu())

    inputs = [(torch.randn(2, 3, 12, 12),) for _ in range(2)]
    export(TwoLevels().eval(), inputs[0], tmp_path / "net.onnx", calibration=inputs)
    assert open_onnx(tmp_path / "net.onnx")(list(inputs[0]))[0].min() < -0.5


def operators_run(file):
    """Return the types of the nodes that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_suffix(".run.onnx"))
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def quantised_inputs(graph, names):
    """Return which of the nodes read what was in int8."""
    integers = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.name for node in graph.node if node.name in names and integers.intersection(node.input)}


def quantised_within(graph, names):
    """Return what is in int8 of the constants and of the maps that the nodes hand each other."""
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    read = {name for node in graph.node if node.name in names for name in node.input}
    quantised = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] in read}
    own = {constant.name for constant in graph.initializer}
    own |= {name for node in graph.node if node.name in names for name in node.output}
    return {name for name in quantised if sources.get(name, name) in own}


def between_convolutions(kernel_generator):
    layer = Involution2d(16, kernel_size=5, groups=2, kernel_generator=kernel_generator)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    for parameter in net.parameters():
        # Kernels that are zero would hide what is done to them.
        nn.init.normal_(parameter, std=0.2)
    return net, [(torch.randn(2, 3, 12, 12),) for _ in range(2)]


PHIS = ["bottleneck", "linear", "attention", "outlook", "local_relation", "san_pairwise", "sasa"]


@pytest.mark.parametrize("kernel_generator", PHIS)
def test_no_kernel_generation_of_an_onnx_file_is_quantised(kernel_generator, tmp_path):
    net, inputs = between_convolutions(kernel_generator)
    file = tmp_path / "net.onnx"
    assert export(net, inputs[0], file, calibration=inputs).differences[0][1] > 1e-4
    involutions = to_onnx(net, inputs[0], tmp_path / "float.onnx")
    graph = onnx.load(file).graph
    assert not quantised_within(graph, involutions)
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"} - involutions
    assert len(convolutions) == 2 and quantised_inputs(graph, convolutions) == convolutions


@HAS_NNCF
@pytest.mark.parametrize("kernel_generator", PHIS)
def test_no_kernel_generation_of_an_openvino_file_is_quantised(kernel_generator, tmp_path):
    import openvino

    net, inputs = between_convolutions(kernel_generator)
    file = tmp_path / "quantised.xml"
    assert export(net, inputs[0], file, format="openvino", calibration=inputs).differences[0][1] > 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quantised.bin", "quantised.xml"]
    involutions = to_onnx(net, inputs[0], tmp_path / "float.onnx")
    nodes = onnx.load(tmp_path / "float.onnx").graph.node
    readers = set()
    for node in openvino.Core().read_model(file).get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            readers |= {target.get_node().get_friendly_name() for target in node.output(0).get_target_inputs()}
    convolutions = {node.name for node in nodes if node.op_type == "Conv"} - involutions
    assert {name.partition("/")[0] for name in readers} == convolutions and len(convolutions) == 2


@pytest.mark.usefixtures("extension_cache")
@HAS_NNCF
@pytest.mark.parametrize("operator", ["standard", "custom"])
def test_openvino(net, batches, tmp_path, operator, capsys):
    file = tmp_path / "net.xml"
    folded, _ = fold_batch_norms(net.net)
    parity = export(
        folded,
        (batches[0],),
        file,
        format="openvino",
        operator=operator,
        calibration=[(batch,) for batch in batches],
    )
    assert 1e-4 < parity.differences[0][1] < 0.2 and parity.agreement > 0.8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert not capsys.readouterr().out
    session = open_openvino(file, extension=extension() if operator == "custom" else None)
    with torch.no_grad():
        assert difference(session([batches[0]]), [net.net(batches[0])]) < 0.2


def test_any_size_of_a_segmentation_net(tmp_path, photographs, capsys):
    arguments = {"backbone": "rednet26", "neck": "involution", "neck_channels": 32, "head_channels": 16}
    arguments["backbone_args"] = {"channels": (16, 16, 32, 32), "layers": (1, 1, 1, 1)}
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    described = saved.Description("segmentation", "semantic_fpn", arguments, tuple("abc"), mean, std, {})
    saved.save(tmp_path / "net", semantic_fpn(3, **arguments), described)
    file = tmp_path / "net.onnx"
    command = ["export", str(tmp_path / "net"), "--output", str(file), "--dynamic", "--multiple", "32"]
    assert main([*command, "--size", "64", "--calibration", str(photographs)]) == 0
    printed = capsys.readouterr().out
    assert "from 64 pixels on, in steps of 32, in int8" in printed and "at 1×3×96×128" in printed
    assert printed.rstrip().endswith(" % of the classes found are PyTorch's")
    assert open_onnx(file)([torch.randn(3, 3, 64, 96)])[0].shape == (3, 3, 64, 96)
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)


def test_a_file_that_loses_too_much_is_not_written(tmp_path, photographs, capsys):
    file = tmp_path / "net.onnx"
    command = ["export", REDNET, "--output", str(file), "--calibration", str(photographs), "--tolerance", "1e-5"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "more than 1e-05; allow more with tolerance, or calibrate on other images, or leave it" in error
    assert not list(tmp_path.iterdir())


def test_what_int8_cannot_be_made_of(net, batches, tmp_path, monkeypatch):
    file, images = tmp_path / "net.onnx", (batches[0],)
    with pytest.raises(
        ValueError, match="calibration for int8 is of ONNX and OpenVINO; leave it out, or export to one"
    ):
        export(net.net, images, tmp_path / "net.pt2", format="pt2", calibration=[images])
    for given, kind in (
        (batches, "Tensor in it"),
        (batches[0], "Tensor"),
        (3, "int"),
        ("folder", "str"),
        ([(1,)], "tuple in"),
    ):
        with pytest.raises(TypeError, match=rf"calibration must be a list of tuples of tensors, .*, got {kind}"):
            export(net.net, images, file, calibration=given)
    with pytest.raises(ValueError, match=r"inputs, \(4, 3, 32, 32\) of float32, got \(1, 3, 32, 32\) of float32"):
        export(net.net, images, file, calibration=[images, (batches[0][:1],)])
    with pytest.raises(ValueError, match=r"got \(4, 3, 32, 32\) of float64"):
        export(net.net, images, file, calibration=[(batches[0].double(),)])
    with pytest.raises(
        ValueError, match="calibration has values that are infinite or no numbers; leave those inputs out"
    ):
        export(net.net, images, file, calibration=[(batches[0] / 0,)])
    with pytest.raises(
        ExportError, match="it has no convolution or linear layer besides its involutions that could be int8"
    ):
        export(Involution2d(3), images, file, calibration=[images])
    with pytest.raises(ExportError, match="int8 is made of a model in float32; convert it and its inputs with"):
        export(net.net, (batches[0].double(),), file, calibration=[(batches[0].double(),)])
    monkeypatch.setattr("involution.export.checked.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="nncf is missing; install it with: pip install"):
        export(net.net, images, tmp_path / "net.xml", format="openvino", calibration=[images])
    with pytest.raises(MissingPackageError, match="onnxruntime is missing"):
        export(net.net, images, file, calibration=[images])
    assert not list(tmp_path.iterdir())
