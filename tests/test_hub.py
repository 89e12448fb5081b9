"""Saved nets of every task go to a hub and come back: a folder in the place of the network."""

import json
import shutil
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from test_detection_models import detector
from trainings import refusal

import involution.models  # noqa: F401
from involution.commands.classifiers import load_classifier
from involution.commands.main import main
from involution.errors import CheckpointError, CommandError
from involution.models import hub, named, saved
from involution.models.segmentation import create as create_segmentation
from involution.models.trained import FOLDER

COMMIT = "0" * 39 + "1"


class LocalHub:
    """Keeps repositories in a folder, in the form in which huggingface_hub keeps what it fetched."""

    def __init__(self, folder, private=()):
        self.folder, self.private = folder, dict(private)

    def place(self, name):
        return self.folder / f"models--{name.replace('/', '--')}"

    def files(self, name):
        return self.place(name) / "snapshots" / COMMIT

    def create_repo(self, name, *, private, exist_ok):
        # One that is there stays as it is, private or not.
        self.private.setdefault(name, private)
        self.files(name).mkdir(parents=True, exist_ok=exist_ok)
        (self.place(name) / "refs").mkdir(exist_ok=True)
        (self.place(name) / "refs" / "main").write_text(COMMIT)
        return SimpleNamespace(repo_id=name)

    def repo_info(self, name):
        return SimpleNamespace(private=self.private[name])

    def file_exists(self, name, file):
        return (self.files(name) / file).exists()

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        for pattern in allow_patterns:
            for file in self.folder.__class__(folder_path).glob(pattern):
                shutil.copy(file, self.files(repo_id) / file.name)

    def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, commit_message):
        (self.files(repo_id) / path_in_repo).write_bytes(path_or_fileobj)


def detection(folder):
    net = detector(box_score_thresh=0.0).eval()
    arguments = {**json.loads(json.dumps(detector_arguments()))}
    saved.save(
        folder, net, saved.Description("detection", "faster_rcnn", arguments, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
    )
    return net


def detector_arguments():
    from test_detection_models import SMALL

    return {**SMALL, "box_channels": 32, "box_score_thresh": 0.0}


def segmentation(folder):
    arguments = {"backbone": "rednet26", "backbone_args": {"channels": [16, 16, 32, 32], "kernel_size": 3}}
    net = create_segmentation("semantic_fpn", 3, **arguments).eval()
    saved.save(
        folder,
        net,
        saved.Description("segmentation", "semantic_fpn", arguments, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3),
    )
    return net


def classification(folder):
    shutil.copytree(FOLDER / "rednet14_eighth.cifar10", folder)
    (folder / "README.md").unlink()
    return timm.create_model("rednet14_eighth.cifar10", pretrained=True).eval()


TASKS = {
    "detection": (detection, "object-detection"),
    "segmentation": (segmentation, "image-segmentation"),
    "classification": (classification, "image-classification"),
}


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    class Here(LocalHub):
        def __init__(self, token=None):
            super().__init__(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "HfApi", Here)
    return LocalHub(tmp_path / "cache")


@pytest.mark.parametrize("task", TASKS)
def test_nets_of_every_task_go_there_and_predict_from_there(task, tmp_path, local, capsys):
    make, pipeline = TASKS[task]
    net = make(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("not for others")
    assert main(["push", str(tmp_path / "model"), "user/net", "--license", "mit"]) == 0
    assert "is hf-hub:user/net: involution predict image.jpg --model hf-hub:user/net" in capsys.readouterr().out
    files = local.files("user/net")
    assert sorted(file.name for file in files.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    text = (files / "README.md").read_text()
    assert text.startswith("---\n") and f'pipeline_tag: "{pipeline}"' in text and 'license: "mit"' in text
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "x.png")
    command = ["predict", str(tmp_path / "x.png"), "--model", "hf-hub:user/net", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    loaded = named.load("hf-hub:user/net")
    if task != "detection":
        x = torch.randn(1, 3, *loaded.size)
        with torch.inference_mode():
            assert torch.equal(loaded.net(x), net(x))
    else:
        whole, description = saved.load(hub.find_folder("hf-hub:user/net"))
        assert description.classes == ("a", "b", "c")
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in whole.state_dict().items())


def test_a_card_of_ones_own_stays(tmp_path, local):
    segmentation(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("mine")
    hub.push(tmp_path / "model", "user/net")
    assert (local.files("user/net") / "README.md").read_text() == "mine"
    # One that is there already and not in the folder stays, too.
    (tmp_path / "model" / "README.md").unlink()
    hub.push(tmp_path / "model", "user/net")
    assert (local.files("user/net") / "README.md").read_text() == "mine"


def test_a_private_net_is_not_put_where_everybody_reads(tmp_path, local):
    segmentation(tmp_path / "model")
    api = LocalHub(tmp_path / "cache", {"user/public": False, "user/hidden": True})
    with pytest.raises(
        CheckpointError, match=r"^user/public is there already and public; make it private on the Hub, or"
    ):
        hub.push(tmp_path / "model", "user/public", private=True, api=api)
    assert not list(api.files("user/public").iterdir())
    for name in ("user/hidden", "user/new"):
        hub.push(tmp_path / "model", name, private=True, api=api)
        assert api.private[name] and (api.files(name) / "model.safetensors").exists()


def test_without_its_card_nothing_of_a_net_is_there(tmp_path, local):
    class Strict(LocalHub):
        def upload_file(self, **arguments):
            raise ValueError('Invalid metadata in README.md: "license" must be one of …')

    segmentation(tmp_path / "model")
    api = Strict(tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"the Hub did not take .* as user/net: Invalid metadata"):
        hub.push(tmp_path / "model", "user/net", license="mine", api=api)
    assert not list(api.files("user/net").iterdir())


def test_the_card_has_the_whole_name_of_the_repository(tmp_path, local):
    class Api(LocalHub):
        def create_repo(self, name, **arguments):
            return super().create_repo(f"user/{name}", **arguments)

    segmentation(tmp_path / "model")
    api = Api(tmp_path / "cache")
    assert hub.push(tmp_path / "model", "net", api=api) == "hf-hub:user/net"
    assert "--model hf-hub:user/net\n" in (api.files("user/net") / "README.md").read_text()


def test_a_token_and_the_message_of_the_commit_reach_the_hub(tmp_path, monkeypatch):
    given = {}

    class Api(LocalHub):
        def __init__(self, token):
            super().__init__(tmp_path / "cache")
            given["token"] = token

        def upload_folder(self, *, commit_message, **arguments):
            given["message"] = commit_message

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    classification(tmp_path / "model")
    hub.push(tmp_path / "model", "user/net", token="hf_mine", message="Train it longer")
    assert given == {"token": "hf_mine", "message": "Train it longer"}


def test_a_cache_of_ones_own_is_read_without_the_network(tmp_path, local, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    segmentation(tmp_path / "model")
    api = LocalHub(tmp_path / "own")
    hub.push(tmp_path / "model", "user/net", api=api)
    found = hub.find_folder("hf-hub:user/net", cache=tmp_path / "own", local_files_only=True)
    assert found == api.files("user/net")
    with pytest.raises(CheckpointError, match=r"hf-hub:user/net cannot be fetched: .*local_files_only"):
        hub.find_folder("hf-hub:user/net", local_files_only=True)


@pytest.mark.parametrize("load", [hub.find_folder, named.classifier])
def test_a_lost_connection_is_a_sentence_whatever_the_transport_calls_it(load, local, monkeypatch):
    class ProtocolError(Exception):
        pass

    def lost(*arguments, **options):
        raise ProtocolError("server disconnected")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lost)
    monkeypatch.setattr(sys.modules[timm.models.load_model_config_from_hf.__module__], "hf_hub_download", lost)
    with pytest.raises(CheckpointError, match=r"hf-hub:user/net cannot be (fetched|loaded): server disconnected"):
        load("hf-hub:user/net")


def test_timms_own_function_pushes_our_classifiers(tmp_path, local, monkeypatch):
    from timm.models import push_to_hf_hub

    timm_hub = sys.modules[push_to_hf_hub.__module__]

    class Api(LocalHub):
        def __init__(self, **arguments):
            super().__init__(tmp_path / "cache")

        def create_repo(self, name, **arguments):
            return super().create_repo(name, private=False, exist_ok=True)

        def file_exists(self, repo_id, filename, revision=None):
            return False

        def upload_folder(self, *, repo_id, folder_path, **arguments):
            super().upload_folder(repo_id=repo_id, folder_path=folder_path, allow_patterns=["*"], commit_message="")

    monkeypatch.setattr(timm_hub, "HfApi", Api)
    net = timm.create_model("rednet14_eighth", num_classes=4).eval()
    push_to_hf_hub(net, "user/timms", safe_serialization=True)
    loaded = timm.create_model("hf-hub:user/timms", pretrained=True, cache_dir=str(tmp_path / "cache")).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(x), net(x))


def test_what_a_name_means_is_found_by_its_description(tmp_path, local):
    make, _ = TASKS["segmentation"]
    make(tmp_path / "streets")
    classification(tmp_path / "digits")
    folder, description = named.find_described(str(tmp_path / "streets"))
    assert (
        folder == tmp_path / "streets" and description.task == "segmentation" and description.classes == ("a", "b", "c")
    )
    # A classifier, by folder or by name; and a file of weights is for a name, not for what is called like a folder.
    assert named.find_described(str(tmp_path / "digits")) is None and named.find_described("rednet26") is None
    assert named.find_described("rednet26", "random") is None
    assert named.find_described(str(tmp_path / "streets"), "x.pth")[0] == folder
    config = tmp_path / "streets" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "arguments": {**content["arguments"], "backbone": "hf-hub:user/net"}}))
    with pytest.raises(CheckpointError, match="names 'hf-hub:user/net', which would be fetched from a network"):
        named.find_described(str(tmp_path / "streets"))
    assert named.find_described(str(tmp_path / "streets"), allow_network=True)[0] == folder
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is damaged: .*; save the net anew"):
        named.find_described(str(tmp_path / "streets"))


@pytest.mark.parametrize("content", [b"", b"hello", (2**40).to_bytes(8, "little") + b"{}", "half"], ids=str)
def test_damaged_weights_of_a_folder_are_refused_whatever_its_task(tmp_path, local, content):
    for task, (make, _) in TASKS.items():
        make(tmp_path / task)
        weights = tmp_path / task / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2] if content == "half" else content)
        with pytest.raises(
            CheckpointError, match=f"{tmp_path / task}.*; (copy or save it|save the net|save it|give --weights)"
        ):
            named.load(str(tmp_path / task))


def test_commands_for_classifiers_take_nothing_else(tmp_path, local, capsys):
    net = classification(tmp_path / "digits")
    loaded = load_classifier(str(tmp_path / "digits"), where="the page")
    assert not loaded.training and loaded.num_classes == 10
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert load_classifier("rednet26", "random", where="the page").num_classes == 1000
    for task in ("segmentation", "detection"):
        TASKS[task][0](tmp_path / task)
        with pytest.raises(
            CommandError, match=f"{task} is a {task} net; the page shows classifiers, name one of these"
        ):
            load_classifier(str(tmp_path / task), where="the page")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert main(["visualize", str(tmp_path / "x.png"), "--model", str(tmp_path / "detection")]) == 2
    assert "detection is a detection net; this command shows classifiers, name one of these" in refusal(capsys)
    with pytest.raises(CheckpointError, match=r"nothing cannot be loaded: Unknown model .*; give --weights, or as"):
        load_classifier("nothing", where="the page")


def test_refusals_are_sentences(tmp_path, local, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert main(["push", str(tmp_path / "empty"), "user/net"]) == 2
    assert "holds no saved net: expected config.json and model.safetensors" in refusal(capsys)
    segmentation(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert main(["push", str(tmp_path / "model"), "user/net"]) == 2
    assert "has no model.safetensors; expected a folder that involution fit wrote" in refusal(capsys)
    weights.write_bytes(content)

    def lost(*arguments, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(LocalHub, "create_repo", lost)
    assert main(["push", str(tmp_path / "model"), "user/net"]) == 2
    assert "the Hub did not take" in refusal(capsys)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert main(["predict", str(tmp_path / "x.png"), "--model", "hf-hub:user/missing"]) == 2
    assert "hf-hub:user/missing cannot be fetched: " in refusal(capsys)
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        hub.find_folder("hf-hub:no/such/name")
    assert hub.find_folder("rednet50") is None
