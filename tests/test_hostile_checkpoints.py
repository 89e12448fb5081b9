"""Checkpoints and saved folders that are damaged, foreign or hostile: a sentence each, nothing run, nothing fetched."""

import http.server
import json
import math
import pickle
import resource
import socket
import threading
import time
from functools import partial

import pytest
import torch
from trainings import TINY, refusal

from involution.commands.main import main
from involution.models import saved
from involution.models.checkpoints import CheckpointError, read, read_training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a training of two epochs."""
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(["fit", *TINY, f"--run={run}"]) == 0
    return run


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Attack:
    """What a pickle does that runs code when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def write_hostile(kind, path, run, mark):
    """Write a file in the place of a checkpoint."""
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("epoch: 3\n" * 100)
    elif kind == "flipped":
        path.write_bytes(bytes(b ^ 0xFF if 200 <= i < 400 else b for i, b in enumerate(whole)))
    elif kind == "weights alone":
        torch.save(content["state_dict"], path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "wrong kinds":
        torch.save({**content, "epoch": "three", "loops": []}, path)
    elif kind == "code":
        torch.save({**content, "callbacks": Attack(mark)}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Attack(mark), protocol=2))
    elif kind == "folder":
        path.mkdir()


KINDS = [
    "cut",
    "empty",
    "text",
    "flipped",
    "weights alone",
    "list",
    "wrong kinds",
    "code",
    "plain pickle",
    "folder",
    "missing",
]


@pytest.mark.parametrize(
    ("command", "kind"),
    [*(("fit", kind) for kind in KINDS), ("validate", "code"), ("validate", "cut"), ("test", "text")],
)
def test_no_checkpoint_is_a_sentence(run, tmp_path, capsys, command, kind):
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    write_hostile(kind, path, run, mark)
    assert main([command, *TINY, f"--run={tmp_path / 'run'}", f"--ckpt_path={path}"]) == 2
    words = refusal(capsys)
    assert str(path) in words and not mark.exists()
    expected = {
        "code": "was refused, because loading it could run code",
        "plain pickle": "was refused, because loading it could run code",
        "weights alone": "is no checkpoint of a training: the key 'epoch' is missing; expected a file such as",
        "list": "is no checkpoint of a training: it must be a mapping",
        "wrong kinds": "is no checkpoint of a training: epoch must be a whole number",
        "folder": "there is no checkpoint at",
        "missing": "there is no checkpoint at",
    }
    assert expected.get(kind, "is damaged or no checkpoint: ") in words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--model.optimizer=torch.optim.Adam"],
            "was made with torch.optim.sgd.SGD and cannot be gone on from with torch.optim.adam.Adam; take the same",
        ),
        (
            ["--trainer.max_epochs=1"],
            "has 2 epochs behind it and the training shall have 1; raise --trainer.max_epochs",
        ),
        (
            [
                "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [16, 16, 16, 16], in_chans: 1, "
                "kernel_size: 3, group_channels: 4}"
            ],
            "does not fit the model: size mismatch for ",
        ),
        (
            [
                "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [8, 8, 8, 8], in_chans: 3, "
                "kernel_size: 3, group_channels: 4}"
            ],
            "does not fit the model",
        ),
    ],
    ids=["optimiser", "epochs", "width", "channels"],
)
def test_another_training_cannot_go_on_from_it(run, tmp_path, capsys, flags, words):
    path = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}", path, *flags]) == 2
    last = refusal(capsys)
    assert words in last and len(last) < 700


def test_the_same_training_goes_on_and_a_finished_one_ends(run, tmp_path):
    path = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}", path, "--trainer.max_epochs=3"]) == 0
    assert main(["fit", *TINY, f"--run={tmp_path / 'same'}", path]) == 0


def test_damage_inside_a_checkpoint_of_the_right_form(run, tmp_path, capsys):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for key, value in (("loops", {}), ("optimizer_states", [{}]), ("lr_schedulers", 3), ("callbacks", {"x": 1})):
        torch.save({**content, key: value}, tmp_path / "x.ckpt")
        flags = [f"--run={tmp_path / key}", f"--ckpt_path={tmp_path / 'x.ckpt'}", "--trainer.max_epochs=3"]
        status = main(["fit", *TINY, *flags])
        if key != "callbacks":
            assert status == 2 and f"{tmp_path / 'x.ckpt'} cannot be gone on from: " in refusal(capsys)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_random_weights_are_judged_only_when_asked_for(run, tmp_path, capsys, command):
    assert main([command, *TINY, f"--run={run}"]) == 2
    assert f"{command} judges trained weights; say which with --ckpt_path: best or last" in refusal(capsys)
    assert main([command, *TINY, f"--run={tmp_path}", "--ckpt_path=none"]) == 0
    assert main([command, *TINY, f"--run={run}", "--ckpt_path=last"]) == 0
    assert main([command, *TINY, f"--run={tmp_path}", "--ckpt_path=last"]) == 2
    assert f"there is no checkpoint at {tmp_path / 'checkpoints' / 'last.ckpt'}; name the --run" in refusal(capsys)


def test_best_without_one_and_last_without_one(tmp_path, capsys):
    assert main(["fit", *TINY, f"--run={tmp_path / 'a'}", "--ckpt_path=best"]) == 2
    assert "there is no checkpoint at " in refusal(capsys)
    for command in ("fit", "validate"):
        assert main([command, *TINY, f"--run={tmp_path / 'a'}", "--ckpt_path=hpc"]) == 2
        assert "no HPC checkpoint was found" in refusal(capsys)
    # The first of many equal commands.
    assert main(["fit", *TINY, f"--run={tmp_path / 'b'}", "--ckpt_path=last", "--trainer.max_epochs=1"]) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("weights alone", "wrong kinds", "code")])
@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "pdparams"])
def test_weights_to_convert(run, tmp_path, capsys, kind, ending):
    path, mark = tmp_path / f"x.{ending}", tmp_path / "mark"
    write_hostile(kind, path, run, mark)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    assert str(path) in refusal(capsys) and not mark.exists() and not (tmp_path / "out.safetensors").exists()


def test_a_checkpoint_from_elsewhere_runs_no_code(run, tmp_path, monkeypatch, capsys):
    """Lightning's default lets one that comes by HTTP do so."""
    path, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    write_hostile("code", path, run, mark)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        address = f"http://127.0.0.1:{server.server_port}/x.ckpt"
        status = main(["fit", *TINY, f"--run={tmp_path / 'run'}", f"--ckpt_path={address}"])
        server.shutdown()
    assert status == 2 and address in refusal(capsys) and not mark.exists()


def test_what_a_checkpoint_calls_an_old_one_is_not_removed(run, tmp_path):
    """ModelCheckpoint believes the path in it, and would remove a folder with all in it."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x.ckpt").touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for key, state in content["callbacks"].items():
        if "ModelCheckpoint" in key:
            outside = f"{tmp_path}/run/checkpoints/../../precious"
            state.update(best_model_path=outside, last_model_path=outside, kth_best_model_path=outside)
            state.update(best_k_models={outside: torch.tensor(-1.0)}, best_model_score=torch.tensor(-1.0))
            state["dirpath"] = str(tmp_path / "run" / "checkpoints")
    torch.save(content, tmp_path / "x.ckpt")
    flags = [f"--run={tmp_path / 'run'}", f"--ckpt_path={tmp_path / 'x.ckpt'}", "--trainer.max_epochs=3"]
    assert main(["fit", *TINY, *flags]) == 0
    assert (precious / "x.ckpt").exists() and (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_names_that_are_no_text(tmp_path):
    torch.save({3: torch.ones(1), "a": torch.ones(2)}, tmp_path / "x.pth")
    assert list(read(tmp_path / "x.pth")) == ["a"]
    with pytest.raises(CheckpointError, match="is no checkpoint of a training"):
        read_training(tmp_path / "x.pth")


# Saved folders


DESCRIPTION = {
    "task": "segmentation",
    "architecture": "semantic_fpn",
    "arguments": {
        "backbone": "rednet26",
        "backbone_args": {"stem": "small", "channels": [8, 8, 8, 8]},
        "neck_channels": 8,
        "head_channels": 8,
    },
    "classes": ["a", "b"],
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "details": {},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": []}, "classes must be a list with something in it"),
        ({"classes": "ab"}, "classes must be a list"),
        ({"classes": [1, 2]}, r"classes\[0\] must be text"),
        ({"mean": [0.0]}, "mean and std must be as many"),
        ({"std": [1, 0, 1]}, r"std\[1\] must be a number above zero"),
        ({"std": [1, "1", 1]}, r"std\[1\] must be a number above zero"),
        ({"arguments": []}, "arguments must be a mapping"),
        ({"architecture": None}, "architecture must be text"),
        ({"task": ["segmentation"]}, "unknown task"),
        ({"details": {"image_size": [32, -1]}}, r"details.image_size"),
        ({"details": {"views": {"flip": 3}}}, "details.views.flip must be true or false"),
        ({"task": "detection", "details": {"category_ids": [1]}}, "there are 1 category_ids for 2 classes"),
        (
            {"arguments": {"backbone": "hf-hub:user/net"}},
            "names 'hf-hub:user/net', which would be fetched from a network",
        ),
        ({"arguments": {"backbone": "rednet26", "x": [{"y": "https://h/x"}]}}, "names 'https://h/x'"),
    ],
)
def test_a_description_is_checked_before_anything_is_built(tmp_path, no_network, change, words):
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, **change}))
    with pytest.raises(CheckpointError, match=words):
        saved.describe(tmp_path)


def test_a_description_names_no_weights_of_its_own(tmp_path, no_network):
    arguments = {
        "weights": "/etc/passwd",
        "backbone": "resnet18",
        "backbone_args": {"pretrained": True, "stem_width": 8},
    }
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, "arguments": arguments}))
    described = saved.describe(tmp_path)
    assert described.arguments == {"backbone": "resnet18", "backbone_args": {"stem_width": 8}}
    saved.build(described)


def test_a_description_may_name_a_hub_where_that_is_allowed(tmp_path, no_network):
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, "arguments": {"backbone": "hf-hub:user/net"}}))
    assert saved.describe(tmp_path, allow_network=True).arguments["backbone"] == "hf-hub:user/net"


def test_sizes_that_no_file_has_take_no_memory(tmp_path, no_network):
    description = saved.Description(**{**DESCRIPTION, "classes": ("a", "b")})
    net = saved.build(description)
    saved.save(tmp_path, net, description)
    saved.load(tmp_path)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for arguments, words in (
        ({"neck_channels": 9}, "does not fit its description"),
        ({"neck_channels": 100_000, "head_channels": 100_000}, "the net would have more than"),
        ({"neck_channels": 2**20, "head_channels": 2**20}, "the net would have more than"),
        (
            {"backbone_args": {**DESCRIPTION["arguments"]["backbone_args"], "layers": [10**6] * 4}},
            "would have more than",
        ),
        ({"head_channels": 10**9}, "must have no number beyond 1,048,576, but has one at head_channels"),
        ({"backbone_args": {"channels": [8, 10**17]}}, r"but has one at backbone_args.channels\[1\]"),
    ):
        other = {**DESCRIPTION, "arguments": {**DESCRIPTION["arguments"], **arguments}}
        (tmp_path / "config.json").write_text(json.dumps(other))
        with pytest.raises(CheckpointError, match=words):
            saved.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19 and time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("segmentation", {"details": {"image_size": [10**4, 10**4]}}, "from 1 to 4096, got 10000"),
        ("segmentation", {"details": {"views": {"window": [2**13, 1]}}}, "from 1 to 4096, got 8192"),
        ("segmentation", {"details": {"views": {"scales": [1e6]}}}, "must be a number from 0.1 to 10, got 1000000.0"),
        ("detection", {"arguments": {"min_size": 10**5}}, "arguments.min_size must be a .* from 1 to 4096, got 100000"),
        ("detection", {"arguments": {"min_size": [64, 10**5]}}, r"from 1 to 4096, got \[64, 100000\]"),
        ("detection", {"arguments": {"max_size": 0}}, "arguments.max_size must be a number of pixels from 1 to 4096"),
    ],
)
def test_sizes_of_images_beyond_any_use(tmp_path, task, change, words):
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, "task": task, **change}))
    with pytest.raises(CheckpointError, match=words):
        saved.describe(tmp_path)


def test_a_classifier_without_weights_is_not_built(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "rednet26", "num_classes": 10**6}))
    with pytest.raises(CheckpointError, match=r"holds no weights: expected model.safetensors beside config.json"):
        saved.check_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "hf-hub:user/net"}, "names 'hf-hub:user/net', which would be fetched"),
        ({"model_args": {"pretrained_cfg_overlay": {"url": "https://h/x"}}}, "names 'https://h/x'"),
        ({"model_args": []}, "model_args must be a mapping"),
        ({"architecture": 5}, "architecture must be text"),
        ({"num_classes": 10**9}, "num_classes must be a number from 0 to 1,048,576, got 1000000000"),
        (
            {"model_args": {"num_classes": 10**6}},
            r"describes another net than the weights are of: the net would have more than .* bytes",
        ),
        ({"model_args": {"channels": [10**9] * 4}}, r"no number beyond 1,048,576, but has one at channels\[0\]"),
        ({"model_args": {"channels": [2**16] * 4}}, "the net would have more than"),
        ({"model_args": {"layers": [10**6] * 4}}, "the net would have more than"),
        ({"model_args": {"kernel_size": 2**20 - 1}}, "the net would have more than"),
        ({"model_args": {"drop_path_rate": math.inf}}, "but has one at drop_path_rate"),
        ({"pretrained_cfg": {"input_size": [3, 8192, 8192]}}, "must be a number of pixels from 1 to 4096, got 8192"),
        ({"pretrained_cfg": {"crop_pct": 1e-9}}, "crop_pct must be a number from 0.1 to 10, got 1e-09"),
        (
            {"pretrained_cfg": {"input_size": [3, 10**9, 4]}},
            r"pretrained_cfg.input_size\[1\] must be a number of pixels",
        ),
        ({"pretrained_cfg": {"mean": ["x"]}}, r"pretrained_cfg.mean\[0\] must be a finite number"),
        ({"pretrained_cfg": {"interpolation": "none"}}, "the net does not say how it sees an image|cannot be loaded"),
        ({"architecture": "rednet27"}, "rednet27|nknown"),
        ({"label_names": ["a"]}, "10 outputs and its description names 1 classes"),
    ],
)
def test_a_classifiers_folder(run, tmp_path, capsys, no_network, change, words):
    import re
    import shutil

    from PIL import Image

    model = tmp_path / "model"
    shutil.copytree(run / "model", model)
    content = json.loads((model / "config.json").read_text())
    for key, value in change.items():
        content[key] = {**content[key], **value} if key == "pretrained_cfg" else value
    (model / "config.json").write_text(json.dumps(content))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(model)]) == 2
    assert re.search(words, refusal(capsys))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 5000, b"\xff", b"null", b"3"])
def test_any_file_in_the_place_of_a_description(run, tmp_path, capsys, content):
    from PIL import Image

    (tmp_path / "config.json").write_bytes(content)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(tmp_path)]) == 2
    assert str(tmp_path / "config.json") in refusal(capsys)
