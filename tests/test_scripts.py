"""``python -m involution.models SCRIPT``: other people's scripts find our nets, their neighbours and their arguments."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

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
    parser.add_argument("--context", default="fork")
    args = parser.parse_args()
    net = timm.create_model(args.model, pretrained=args.pretrained).eval()
    config = resolve_data_config(vars(args), model=net)
    data = create_dataset("", root=args.data, class_map="")
    loader = create_loader(data, config["input_size"], 2, use_prefetcher=False, **{k: config[k] for k in ("mean", "std")})
    numbers = torch.utils.data.DataLoader(Numbered(data), num_workers=1, multiprocessing_context=args.context)
    with torch.inference_mode():
        top = [net(images).argmax(1).tolist() for images, _ in loader]
    print(json.dumps({"top": sum(top, []), "numbers": [int(n) for *_, n in numbers], "classes": CLASSES}))
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
    """As timm itself gives them: the same classes as in this process, from the weights that come with the library."""
    arguments = ("elsewhere/validate.py", "data", "-m", "rednet26_half.imagenette", "--pretrained")
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["numbers"] == [0, 1] and result["classes"] == 10
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
    (folder / "fails.py").write_text("raise RuntimeError('its own fault')\n")
    done = run(folder, "fails.py")
    assert done.returncode == 1 and "its own fault" in done.stderr and 'fails.py", line 1' in done.stderr


def test_classes_of_the_script_reach_started_processes(folder):
    done = run(folder, "elsewhere/validate.py", "data", "-m", "rednet14_eighth.cifar10", "--context", "spawn")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["numbers"] == [0, 1]


def test_scripts_that_ask_torchvision_for_a_model_get_ours(folder):
    (folder / "reference.py").write_text(
        "import sys, torch, torchvision\n"
        "net = torchvision.models.get_model(sys.argv[1], weights=None, num_classes=7)\n"
        "print(type(net).__name__, tuple(net(torch.randn(2, 3, 64, 64)).shape), torchvision.models.resnet18().fc.out_features)\n"
        "torchvision.models.get_model(sys.argv[1], weights='DEFAULT')\n"
    )
    done = run(folder, "reference.py", "rednet26_half")
    assert done.stdout.strip() == "RedNet (2, 7) 1000"
    assert done.returncode == 1 and "torchvision has no weights of rednet26_half, got weights='DEFAULT'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train.py", "--model", "rednet50"), "train.py is no file; expected the path of a Python script"),
        (("elsewhere",), "elsewhere is a folder; expected the path of a Python script"),
        (("--model", "rednet50"), "--model is an option; expected the path of a Python script"),
    ],
)
def test_a_missing_script_is_a_sentence(folder, arguments, words):
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_help_shows_an_example(folder):
    done = run(folder, "--help")
    assert done.returncode == 0
    assert "$ python -m involution.models validate.py" in done.stdout
