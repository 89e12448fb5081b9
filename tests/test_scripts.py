"""``python -m involution.models SCRIPT``: other people's scripts find our nets, their neighbours and their arguments."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from involution.models import in_torchvision
from involution.models.__main__ import main

# Of the kind of timm's scripts: its own parser, timm's registry and loaders, a neighbour beside it, classes of its own in
# the processes of its loader. It knows nothing of this library.
SCRIPT = """
import argparse
import json

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config

from neighbour import CLASSES


class Numbered(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return (*self.data[index], index)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--model", "-m", default="resnet50")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--contexts", nargs="+")
    args = parser.parse_args()
    net = timm.create_model(args.model, pretrained=args.pretrained).eval()
    config = resolve_data_config(vars(args), model=net)
    data = create_dataset("", root=args.data, class_map="")
    loader = create_loader(data, config["input_size"], 2, use_prefetcher=False, **{k: config[k] for k in ("mean", "std")})
    with torch.inference_mode():
        top = [net(images).argmax(1).tolist() for images, _ in loader]
    numbers = {}
    for context in args.contexts:
        of_workers = torch.utils.data.DataLoader(Numbered(data), num_workers=1, multiprocessing_context=context)
        numbers[context] = [int(n) for *_, n in of_workers]
    print(json.dumps({"top": sum(top, []), "numbers": numbers, "classes": CLASSES}))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "neighbour.py").write_text("CLASSES = 10\n")
    (tmp_path / "elsewhere" / "validate.py").write_text(SCRIPT)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.effect_noise((96, 96), 80).convert("RGB").save(tmp_path / "data" / name / "x.png")
    return tmp_path


def run(folder, *arguments):
    command = [sys.executable, "-m", "involution.models", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


def test_a_script_that_knows_nothing_of_us_runs_our_nets(folder):
    """As timm itself gives them: the same classes as in this process, from the weights that come with the library.

    Its own classes reach the processes of its loaders, also those that are started anew.
    """
    arguments = ("elsewhere/validate.py", "data", "-m", "rednet26_half.imagenette", "--pretrained")
    done = run(folder, *arguments, "--contexts", "fork", "spawn")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["numbers"] == {"fork": [0, 1], "spawn": [0, 1]} and result["classes"] == 10
    assert result["top"] == expected(folder / "data")


def expected(data):
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config

    import involution.models  # noqa: F401

    net = timm.create_model("rednet26_half.imagenette", pretrained=True).eval()
    config = resolve_data_config({}, model=net)
    loader = create_loader(
        create_dataset("", root=str(data), class_map=""),
        config["input_size"],
        2,
        use_prefetcher=False,
        mean=config["mean"],
        std=config["std"],
    )
    with torch.inference_mode():
        return torch.cat([net(images).argmax(1) for images, _ in loader]).tolist()


def test_what_the_script_says_and_ends_with_is_handed_on(folder):
    (folder / "ends.py").write_text("import sys\nprint(sys.argv)\nsys.exit(7)\n")
    done = run(folder, "ends.py", "--help", "x")
    assert (done.returncode, done.stdout.strip()) == (7, "['ends.py', '--help', 'x']")


def test_scripts_that_ask_torchvision_for_a_model_get_ours(folder):
    (folder / "reference.py").write_text(
        "import argparse, sys, torch, torchvision\n"
        "torch.save({'args': argparse.Namespace(lr=1)}, 'checkpoint.pth')\n"
        "assert torch.load('checkpoint.pth', weights_only=True)['args'].lr == 1\n"
        "net = torchvision.models.get_model(sys.argv[1], weights=None, num_classes=7)\n"
        "print(type(net).__name__, tuple(net(torch.randn(2, 3, 64, 64)).shape), torchvision.models.resnet18().fc.out_features)\n"
        "torchvision.models.get_model(sys.argv[1], weights='DEFAULT')\n"
    )
    done = run(folder, "reference.py", "rednet26_half")
    assert done.stdout.strip() == "RedNet (2, 7) 1000"
    assert done.returncode == 1 and "torchvision has no weights of rednet26_half, got weights='DEFAULT'" in done.stderr
    # A script's own fault is shown as Python shows it.
    assert 'reference.py", line 6' in done.stderr


@pytest.mark.parametrize("name", ["retinanet_rednet14_eighth_fpn", "fasterrcnn_rednet14_eighth_fpn"])
def test_detectors_are_trained_on_labels_as_torchvision_counts_them(name):
    """From 1 to the number of classes less one, as its reference script reads them from COCO's files."""
    in_torchvision.register_detectors(["rednet14_eighth"])
    options = {"weights": None, "weights_backbone": None, "trainable_backbone_layers": None}
    net = torchvision.models.get_model(name, num_classes=3, min_size=64, max_size=64, **options)
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    losses = net(images, [{"boxes": box, "labels": torch.tensor([label])} for label in (1, 2)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    found = net.eval()(images)
    assert all(0 <= label <= 2 for each in found for label in each["labels"].tolist())
    frozen = torchvision.models.get_model(name, num_classes=3, trainable_backbone_layers=3)
    assert 0 < sum(not p.requires_grad for p in frozen.parameters()) < len(list(frozen.backbone.parameters()))
    with pytest.raises(ValueError, match=f"torchvision has no weights of {name}, got weights='DEFAULT'"):
        torchvision.models.get_model(name, weights="DEFAULT")


def test_refusals_end_the_process_with_2(folder):
    done = run(folder, "--model", "rednet50")
    assert done.returncode == 2
    assert (
        "--model is an option; expected the path of a Python script" in done.stderr and "Traceback" not in done.stderr
    )


def test_a_missing_script_is_a_sentence(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    for name, what in (("train.py", "no file"), ("elsewhere", "a folder")):
        assert main([name, "--model", "rednet50"]) == 2
        assert f"{name} is {what}; expected the path of a Python script" in capsys.readouterr().err


def test_help_shows_an_example(capsys):
    assert main(["--help"]) == 0
    assert "$ python -m involution.models validate.py" in capsys.readouterr().out
    assert main([]) == 2


EXPORT = """
import sys
import numpy
import timm
import torch

net, x = timm.create_model("rednet14_eighth", num_classes=3).eval(), torch.randn(2, 3, 32, 32)
shapes = {"dynamic_shapes": ({0: "batch"},)} if sys.argv[1] == "--dynamo" else {}
torch.onnx.export(net, (x,), "net.onnx", dynamo=bool(shapes), external_data=False, **shapes)
numpy.savez("seen.npz", x=x.numpy(), y=net(x).detach().numpy())
"""


def test_a_script_exports_our_nets(folder):
    """As timm's onnx_export does: with the exporter of today the file runs anywhere; the other one is a sentence."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it is of the extra export")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed; it is of the extra export")
    (folder / "export.py").write_text(EXPORT)
    done = run(folder, "export.py", "--torchscript")
    assert done.returncode == 2 and not (folder / "net.onnx").exists()
    assert done.stderr.splitlines()[-1].startswith(
        "python -m involution.models: the exporter of TorchScript knows no operators but PyTorch's own; ask for the other one"
    )
    done = run(folder, "export.py", "--dynamo")
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    seen = np.load(folder / "seen.npz")
    for batch in (1, 2):
        (y,) = session.run(None, {session.get_inputs()[0].name: seen["x"][:batch]})
        np.testing.assert_allclose(y, seen["y"][:batch], atol=1e-4)
