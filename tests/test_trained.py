"""Weights that come with the library: found by name, whole, described, and followed by the data that they see."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from trainings import refusal

import involution.models  # noqa: F401
from involution.commands.classifiers import class_names
from involution.commands.main import main
from involution.data import ImageFolders, ImageTransforms
from involution.data.segmentation_transforms import SegmentationTransforms
from involution.errors import CheckpointError, InvolutionWarning, TrainingError
from involution.models import trained
from involution.models.backbones import Backbone
from involution.models.detection import faster_rcnn, retinanet
from involution.tasks import ClassificationTask

NAMES = trained.names()
HALF = "rednet26_half.imagenette"


@pytest.mark.parametrize("name", NAMES)
def test_timm_finds_them_without_a_network(name):
    net = timm.create_model(name, pretrained=True)
    kept = load_file(trained.FOLDER / name / "model.safetensors")
    state = net.state_dict()
    assert state.keys() == kept.keys() and all(torch.equal(state[key], value) for key, value in kept.items())
    assert name in timm.list_pretrained("re*net*")
    described = json.loads((trained.FOLDER / name / "config.json").read_text())
    config = net.pretrained_cfg
    assert list(config["label_names"]) == described["label_names"] and net.num_classes == len(config["label_names"])
    for key in ("input_size", "mean", "std"):
        assert list(config[key]) == described["pretrained_cfg"][key], key
    # What the folder says of its architecture is what its name says.
    arguments = {key: value for key, value in described["model_args"].items() if key != "global_pool"}
    with torch.device("meta"):
        same = timm.create_model(described["architecture"], **arguments)
    assert {key: value.shape for key, value in same.state_dict().items()} == {key: v.shape for key, v in state.items()}


def test_they_are_small():
    sizes = {name: (trained.FOLDER / name / "model.safetensors").stat().st_size / 2**20 for name in NAMES}
    assert max(sizes.values()) <= 20 and sum(sizes.values()) <= 40, "they are part of the wheel"


def test_every_card_is_that_of_its_record(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    from tools import model_cards

    cards = model_cards.cards(Path("results"))
    assert {path.name for path in cards} == {"README.md", "config.json"} and len(cards) == 2 * len(NAMES)
    stale = [str(path) for path, text in cards.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert not stale, "run python -m tools.model_cards"


@pytest.mark.parametrize("name", NAMES)
def test_their_licence_is_that_of_their_card_also_where_timm_copies_it(name, tmp_path):
    net = timm.create_model(name, pretrained=True)
    card = (trained.FOLDER / name / "README.md").read_text(encoding="utf-8")
    rows = dict(line.strip("| ").split(" | ", 1) for line in card.splitlines() if line.startswith("| lic"))
    licence = f"{rows['licence of the weights']} ({rows['licence of the data']})"
    timm.models.save_for_hf(net, str(tmp_path), safe_serialization=True)
    copied = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert net.pretrained_cfg["license"] == copied["license"] == licence
    assert not net.pretrained_cfg.get("origin_url") and "origin_url" not in copied


def test_no_net_of_ours_claims_the_licence_or_the_repository_of_others():
    ours = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("involution.")]
    assert {"rednet50", "rednet26_half", "resnet26_half", "san10_pairwise", "axial_resnet26s"} <= set(ours)
    configs = {name: timm.get_pretrained_cfg(f"{name}.untrained", allow_unregistered=False) for name in ours}
    claims = {name: (config.license, config.origin_url) for name, config in configs.items()}
    assert set(claims.values()) == {(None, None)}, claims


def test_a_folder_is_all_there_is_to_add(tmp_path, monkeypatch):
    shutil.copytree(trained.FOLDER / HALF, tmp_path / "rednet26_half.mine")
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    assert trained.names() == ["rednet26_half.mine"]
    found = trained.configurations(["rednet26_half", "rednet50"])
    assert found["rednet26_half.mine"]["file"] == str(tmp_path / "rednet26_half.mine" / "model.safetensors")
    Backbone("rednet26_half", weights="rednet26_half.mine")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint at rednet26_half.imagenette; .*library: rednet26_half.mine"
    ):
        Backbone("rednet26_half", weights=HALF)
    (tmp_path / "rednet26_half.mine" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.json is damaged: the key 'pretrained_cfg' is missing"):
        trained.configurations(["rednet26_half"])


def test_other_heads_and_features_start_from_them():
    whole = timm.create_model(HALF, pretrained=True)
    other = timm.create_model(HALF, pretrained=True, num_classes=3)
    assert other.fc.out_features == 3 and torch.equal(other.layer4[0].conv1.weight, whole.layer4[0].conv1.weight)
    backbone = Backbone("rednet26_half", weights=HALF)
    features = timm.create_model(HALF, pretrained=True, features_only=True, out_indices=(1, 2, 3, 4))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for one, two in zip(backbone.eval()(x), features.eval()(x), strict=True):
            assert torch.equal(one, two)


def test_without_weights_one_reads_which_there_are(monkeypatch):
    if any(name.startswith("resnet26_half.") for name in NAMES):
        pytest.skip("there are some of every variant")
    with pytest.raises(
        RuntimeError, match=r"there are no weights of resnet26_half\. What comes with this library: .*" + HALF
    ):
        timm.create_model("resnet26_half", pretrained=True)


@pytest.fixture
def odd(tmp_path):
    """Return weights that see images in their own way."""
    folder = tmp_path / "odd"
    shutil.copytree(trained.FOLDER / HALF, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 64, 64]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("make", [faster_rcnn, retinanet])
def test_detectors_normalise_as_their_weights_did(odd, make):
    transform = make(3, "rednet26_half", weights=odd, min_size=64, max_size=96).transform
    assert (transform.image_mean, transform.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    told = make(3, "rednet26_half", weights=odd, image_mean=[0, 0, 0], min_size=64, max_size=96).transform
    assert (told.image_mean, told.image_std) == ([0, 0, 0], [0.4, 0.5, 0.6])


def test_segmentation_normalises_as_its_weights_did(odd):
    seen = trained.seen_by(odd)
    transforms = SegmentationTransforms()
    transforms.see_as(seen)
    assert transforms.data_config["mean"] == [0.1, 0.2, 0.3] and transforms.data_config["std"] == [0.4, 0.5, 0.6]
    told = SegmentationTransforms(mean=(0, 0, 1))
    told.see_as(seen)
    assert told.data_config["mean"] == [0, 0, 1] and told.data_config["std"] == [0.4, 0.5, 0.6]
    assert trained.seen_by(odd / "model.safetensors") == trained.seen_by(None) == trained.seen_by("None") == {}


def test_none_is_no_file():
    torch.manual_seed(0)
    fresh = Backbone("rednet26_half").state_dict()
    # What a command line makes of null, too.
    for word in ("none", "None"):
        torch.manual_seed(0)
        state = Backbone("rednet26_half", weights=word).state_dict()
        assert all(torch.equal(state[key], value) for key, value in fresh.items())


@pytest.fixture
def photos(tmp_path):
    for part in ("train", "val"):
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (80, 60), colour).save(tmp_path / "photos" / part / name / f"{i}.png")
    return tmp_path / "photos"


def test_folders_of_images_follow_unless_they_are_told(photos, odd):
    data = ImageFolders(photos)
    data.setup("fit")
    data.see_as(trained.seen_by(odd))
    assert data.data_config["input_size"] == (3, 64, 64) and data.data_config["mean"] == (0.1, 0.2, 0.3)
    assert data.sets["train"][0][0].shape == data.sets["val"][0][0].shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("given", "size", "mean", "crop_fraction"),
    [
        ({"flip": 0.0}, 64, (0.1, 0.2, 0.3), 0.9),
        ({"image_size": 32}, 32, (0.1, 0.2, 0.3), 0.9),
        ({"mean": [0.0, 0.0, 1.0], "crop_fraction": 1.0}, 64, (0.0, 0.0, 1.0), 1.0),
    ],
)
def test_of_transforms_what_is_given_holds_and_all_else_follows(photos, odd, given, size, mean, crop_fraction):
    data = ImageFolders(photos, transforms=ImageTransforms(**given))
    data.setup("fit")
    data.see_as(trained.seen_by(odd) | {"crop_pct": 0.9})
    assert data.sets["train"][0][0].shape == data.sets["val"][0][0].shape == (3, size, size)
    config = data.data_config
    assert (config["mean"], config["std"], config["crop_pct"]) == (mean, (0.4, 0.5, 0.6), crop_fraction)
    # Of other weights, which say nothing.
    data.see_as({"mean": None})
    assert data.data_config == ImageTransforms(**given).data_config


def test_fine_tuning_by_the_preset_and_prediction_by_name(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    run = tmp_path / "run"
    flags = ["--config=recipes/finetune/classification_small.yaml", f"--data.root={photos}", "--model.num_classes=2"]
    quick = [
        "--trainer.max_epochs=1",
        "--data.batch_size=2",
        "--data.num_workers=0",
        "--trainer.enable_progress_bar=false",
        "--data.transforms.flip=0",
    ]
    assert main(["fit", *flags, *quick, f"--run={run}", "--trainer.accelerator=cpu"]) == 0
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 96, 96] and config["label_names"] == ["blue", "red"]
    assert main(["predict", str(photos / "val" / "red"), "--model", str(run / "model")]) == 0
    assert main(["predict", str(photos / "val" / "red" / "0.png"), "--model", HALF, "--top", "10"]) == 0
    said = capsys.readouterr().out
    assert "red " in said and "tench" in said and "parachute" in said and "n01440764" not in said


def test_a_fine_tuned_net_names_the_classes_of_its_data_alone(tmp_path):
    """Also where it has as many classes as the weights it began with."""
    task = ClassificationTask(HALF, 10, model_args={"pretrained": True})
    names = [f"digit {i}" for i in range(10)]
    for folder, told in (("named", {"class_names": names}), ("unnamed", {})):
        task.trainer = SimpleNamespace(datamodule=SimpleNamespace(**told))
        task.save_model(tmp_path / folder)
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config.get("label_names") == told.get("class_names")
        assert "label_names" not in config["pretrained_cfg"] and "n01440764" not in json.dumps(config)
        # Nor does it give itself on under the name and the licence of those weights.
        assert not {"tag", "license", "origin_url"} & config["pretrained_cfg"].keys()
    net = timm.create_model(f"local-dir:{tmp_path / 'named'}", pretrained=True)
    assert class_names(net) == names


def test_a_wrong_name_of_weights_is_a_sentence(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    recipe = "recipes/smoke/detection.yaml"
    assert main(["fit", f"--config={recipe}", "--model.model_args.weights", "rednet26.nothing"]) == 2
    assert "there is no checkpoint at rednet26.nothing; name a file, a folder, or what comes with" in refusal(capsys)


def test_a_wrong_tag_of_weights_names_those_that_there_are():
    with pytest.raises(TrainingError, match=rf"no weights 'rednet26_half.imagenet'; of rednet26_half there are {HALF}"):
        ClassificationTask("rednet26_half.imagenet", num_classes=5)
    with pytest.raises(TrainingError, match=r"no weights 'rednet26.imagenet'; of rednet26 there are none"):
        ClassificationTask("rednet26.imagenet", num_classes=5)


def test_a_training_starts_from_a_folder_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = timm.create_model("rednet26", layers=(1, 1, 1, 1), channels=(16, 16, 16, 16), num_classes=3)
    timm.models.save_for_hf(net, "run/model", safe_serialization=True)
    for name in ("run/model", str(tmp_path / "run" / "model")):
        started = ClassificationTask(name, 3, model_args={"pretrained": True}).model
        assert all(torch.equal(value, started.state_dict()[key]) for key, value in net.state_dict().items())
    with pytest.warns(
        InvolutionWarning, match=r"from random weights of the net in run/model; from its own with --model.mod"
    ):
        ClassificationTask("run/model", 2)
    with pytest.raises(CheckpointError, match=r"run holds no saved net: .*; name the net of this training, run/model"):
        ClassificationTask("run", 3)
    with pytest.raises(
        TrainingError, match="there is no folder runs/model; name one that involution fit wrote, which a"
    ):
        ClassificationTask("runs/model", 3)
