"""involution export: trained nets by name and by folder."""

from pathlib import Path
from shutil import copytree

import pytest
import torch

from involution import fold_batch_norms
from involution.commands.main import main
from involution.models import named, saved
from involution.models.detection import retinanet
from involution.models.segmentation import semantic_fpn

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

TRAINED = Path(__file__).parents[1] / "src" / "involution" / "weights" / "rednet14_eighth.cifar10"
SMALL = {"channels": (16, 16, 32, 32), "layers": (1, 1, 1, 1)}


def outputs(file, images):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(value) for value in session.run(None, {session.get_inputs()[0].name: images.numpy()})]


def names(file):
    return [
        output.name for output in onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).get_outputs()
    ]


def describe(task, architecture, arguments, classes, **details):
    return saved.Description(task, architecture, arguments, classes, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), details)


def test_a_trained_net_takes_any_batch_and_size(tmp_path, capsys):
    file = tmp_path / "net.onnx"
    assert main(["export", str(TRAINED), "--output", str(file), "--dynamic"]) == 0
    printed = capsys.readouterr().out
    assert "batch norms folded" in printed and f"wrote {file} (" in printed
    assert "for images of any batch, height and width from 32 pixels on" in printed
    assert names(file) == ["logits"]
    seen = "pixels from 0 to 1, less the mean (0.4914, 0.4822, 0.4465), divided by the deviation ("
    assert seen in printed and "); gives logits" in printed
    assert "at 2×3×32×32" in printed and "at 1×3×64×96" in printed and "at 3×3×37×33" in printed
    net, images = named.classifier(str(TRAINED)).eval(), torch.randn(5, 3, 40, 51)
    torch.testing.assert_close(outputs(file, images)[0], net(images).detach(), atol=1e-4, rtol=1e-4)


def test_the_custom_operator_is_one_node_a_layer(tmp_path, capsys):
    import onnx

    file = tmp_path / "net.onnx"
    assert main(["export", str(TRAINED), "--output", str(file), "--operator", "custom", "--dynamic"]) == 0
    assert "at 3×3×37×33" in capsys.readouterr().out
    graph = onnx.load(file).graph
    assert sum(node.domain == "involution" for node in graph.node) == 4
    assert not any(node.op_type == "MatMul" for node in graph.node)


def test_a_net_that_folding_changes_is_not_exported(tmp_path, capsys, monkeypatch):
    def wrongly(net):
        folded, report = fold_batch_norms(net)
        torch.nn.init.ones_(folded.conv1.weight)
        return folded, report

    monkeypatch.setattr("involution.surgery.fold_batch_norms", wrongly)
    assert main(["export", str(TRAINED), "--output", str(tmp_path / "net.onnx")]) == 2
    assert "of the largest output: its forward uses layers otherwise than torch.fx sees; export it with --no-fold" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("extension_cache")
def test_openvinos_files_with_the_extension(tmp_path, capsys):
    pytest.importorskip("openvino", reason="openvino is not installed")
    file = tmp_path / "net.xml"
    assert main(["export", str(TRAINED), "--output", str(file), "--operator", "custom", "--format", "openvino"]) == 0
    printed = capsys.readouterr().out
    assert "largest relative difference of OpenVINO" in printed and f"{file.with_suffix('.bin')} (" in printed


def test_one_size_without_folding(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--batch", "3", "--size", "24", "40", "--no-fold", "--format", "pt2", "--compiled", "false"]
    assert main(["export", str(TRAINED), *arguments]) == 0
    printed = capsys.readouterr().out
    file = "rednet14_eighth.cifar10.pt2"
    assert "folded" not in printed and f"wrote {file} (" in printed and "for images of 3×3×24×40" in printed
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_segmentation_nets_give_logits_of_every_pixel(tmp_path, capsys):
    arguments = {"backbone": "rednet26", "neck": "involution", "neck_channels": 32, "head_channels": 16}
    arguments["backbone_args"] = SMALL
    saved.save(
        tmp_path / "net",
        semantic_fpn(3, **arguments),
        describe("segmentation", "semantic_fpn", arguments, tuple("abc"), image_size=[50, 90]),
    )
    file = tmp_path / "net.onnx"
    command = ["export", str(tmp_path / "net"), "--output", str(file), "--dynamic"]
    # It resizes its levels where their sizes differ.
    assert main([*command, "--size", "64", "96"]) == 2
    assert "cannot be exported to ONNX for any size, because it branches by sizes; export it" in capsys.readouterr().err
    # Of the size that it was trained on the next multiples are the example.
    assert main([*command, "--multiple", "32"]) == 0
    printed = capsys.readouterr().out
    assert "at 1×3×96×160" in printed and "from 64 pixels on, in steps of 32" in printed
    assert "enlarge the logits to the image's own size, and take the largest of each pixel" in printed
    assert (
        names(file) == ["logits"]
        and "less the mean (0.5, 0.5, 0.5), divided by the deviation (0.2, 0.2, 0.2)" in printed
    )
    assert outputs(file, torch.randn(3, 3, 128, 64))[0].shape == (3, 3, 128, 64)


def test_a_file_of_steps_has_two_at_least_and_the_name_of_its_folder(tmp_path, monkeypatch, capsys):
    copytree(TRAINED, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    # It was trained on 32×32 pixels.
    assert main(["export", ".", "--dynamic", "--multiple", "32"]) == 0
    assert "mine.onnx" in capsys.readouterr().out
    assert outputs(tmp_path / "mine" / "mine.onnx", torch.randn(3, 3, 64, 96))[0].shape == (3, 10)


def test_of_a_detector_backbone_and_neck_are_exported(tmp_path, capsys):
    arguments = {"backbone": "rednet26", "neck": "involution", "neck_channels": 32, "min_size": 64, "max_size": 80}
    arguments |= {"backbone_args": SMALL, "neck_upsampling": "carafe"}
    net = retinanet(2, **arguments).eval()
    saved.save(tmp_path / "net", net, describe("detection", "retinanet", arguments, tuple("ab")))
    file = tmp_path / "net.onnx"
    assert main(["export", str(tmp_path / "net"), "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "post-processing depend on what is found in an image and are left out" in printed
    assert "for images of 1×3×64×96" in printed
    levels = [f"level_{name}" for name in net.backbone(torch.randn(1, 3, 64, 96))]
    assert names(file) == levels and printed.rstrip().count(", ".join(levels)) == 1
    images = torch.randn(1, 3, 64, 96)
    for actual, expected in zip(outputs(file, images), net.backbone(images).values(), strict=True):
        torch.testing.assert_close(actual, expected.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rednet26"], "rednet26 cannot be loaded: this library publishes no ImageNet weights"),
        (["no_such_net", "--weights", "random"], "no_such_net cannot be loaded: Unknown model"),
        ([str(TRAINED), "--batch", "0"], "--batch must be at least 1, got 0"),
        ([str(TRAINED), "--size", "1", "2", "3"], "--size must be a height and a width of at least 1 pixel, got 1,2,3"),
        (
            [str(TRAINED), "--dynamic", "--multiple", "5", "--size", "32"],
            "--size must have multiples of 5, such as 35 35, got 32 32",
        ),
        (
            [str(TRAINED), "--dynamic", "--multiple", "32", "--size", "32"],
            "with --multiple 32, --size must be at least 64, got 32 32",
        ),
        ([str(TRAINED), "--output", "no/net.onnx"], "cannot write no/net.onnx: there is no folder no"),
        ([str(TRAINED), "--output", "net.pt2"], "a file of onnx is known by the ending .onnx; name it so"),
        ([str(TRAINED), "--format", "pt2", "--opset", "18"], "an opset is of ONNX, not of pt2; leave it out"),
        ([str(TRAINED), "--multiple", "32"], "--multiple is of --dynamic; leave it out"),
        ([str(TRAINED), "--compiled", "false"], "compiled is of pt2, not of onnx; leave it out"),
        ([str(TRAINED), "--format", "pt2", "--operator", "custom"], "a .pt2 file has this library's own, leave it out"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_with_weights_of_its_own_takes_no_others(tmp_path, capsys):
    arguments = {"backbone": "rednet26", "backbone_args": SMALL}
    net = describe("segmentation", "semantic_fpn", arguments, tuple("abc"))
    saved.save(tmp_path / "net", saved.build(net), net)
    assert main(["export", str(tmp_path / "net"), "--weights", "random"]) == 2
    assert "has its own weights; leave out --weights" in capsys.readouterr().err
