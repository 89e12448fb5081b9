"""involution fit, validate, test and predict on a small data set in COCO's format."""

import fnmatch
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small_coco import CATEGORIES, write_coco
from trainings import assert_same_weights, kill_after_a_checkpoint, logged, refusal

from involution.commands.main import main
from involution.errors import DataError
from involution.models.building import check_proportions
from involution.pictures.objects import colour
from involution.tasks import DetectionTask, TrainingError
from involution.tasks.schedules import warmed_up

ARGUMENTS = (
    "{backbone: rednet26, backbone_args: {channels: [16, 16, 32, 32], kernel_size: 3}, neck: involution, neck_channels: 16, "
    "anchor_sizes: [8, 16, 32, 64, 128], min_size: 48, max_size: 64%s}"
)
FLAGS = [
    "--model=involution.tasks.DetectionTask",
    "--model.model=mask_rcnn",
    "--model.num_classes=3",
    "--model.model_args=" + ARGUMENTS % ", box_channels: 32",
    "--model.warmup_iterations=2",
    "--model.optimizer=torch.optim.AdamW",
    "--model.optimizer.lr=1e-3",
    "--data=involution.data.CocoImages",
    "--data.masks=true",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--data.transforms=involution.data.DetectionTransforms",
    "--data.transforms.color_jitter=0.2",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]


RETINA = ["--model.model_args=" + ARGUMENTS % ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


def fit(folder, run, *more):
    return main(["fit", *FLAGS, f"--data.root={folder}", f"--run={run}", *more])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "whole"
    assert fit(folder, run) == 0
    return run


def columns(run):
    """Return the last value of every column of the log."""
    found = {}
    for row in logged(run):
        found |= {name: float(value) for name, value in row.items() if value}
    return found


def test_a_training_logs_losses_and_both_average_precisions(finished):
    logged = columns(finished)
    parts = {name for name in logged if name.startswith("train_")}
    kinds = ("classifier", "box_reg", "objectness", "rpn_box_reg", "mask")
    assert parts == {"train_loss", *(f"train_{kind}_loss" for kind in kinds)}
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
    assert {f"val_{kind}{name}" for kind in ("", "mask_") for name in names} <= set(logged)
    assert all(fnmatch.filter(logged, pattern) for pattern in DetectionTask.logged)
    config = json.loads((finished / "model" / "config.json").read_text())
    assert config["classes"] == list(CATEGORIES.values())
    assert config["details"]["category_ids"] == list(CATEGORIES)


def test_validate_and_test_take_the_checkpoint(finished, folder, capsys):
    # By its path and by its address.
    for command, name, place in (("validate", "val_mask_map_50", ""), ("test", "test_mask_map_50", "file://")):
        checkpoint = f"--ckpt_path={place}{finished}/checkpoints/best.ckpt"
        assert main([command, *FLAGS, f"--data.root={folder}", f"--run={finished}", checkpoint]) == 0
        assert name in capsys.readouterr().out
    record = json.loads((finished / "detection-test.json").read_text())
    assert (record["model"], record["checkpoint"], record["images"]) == ("mask_rcnn", "best.ckpt", 3)
    assert record["epochs"] == torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] + 1
    assert set(record["results"]) >= {"map", "map_50", "mask_map", "mask_map_50"}
    limited = ["validate", *FLAGS, f"--data.root={folder}", f"--run={finished}", "--trainer.limit_val_batches=0.5"]
    limited.append("--ckpt_path=none")
    assert main(limited) == 0
    record = json.loads((finished / "detection-val.json").read_text())
    assert (record["checkpoint"], record["epochs"], record["images"]) == (None, None, 2), "one batch was judged"


def test_predict_draws_and_writes_coco(finished, folder, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(finished / "model", model)
    config = json.loads((model / "config.json").read_text())
    config["arguments"]["box_score_thresh"] = 0.0
    (model / "config.json").write_text(json.dumps(config))
    images = folder / "images" / "val"
    out = tmp_path / "out"
    assert main(["predict", str(images), "--model", str(model), "--out", str(out), "--min-score", "0.0", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["val0.png", "val1.png", "val2.png"]
    content = json.loads((out / "predictions.json").read_text())
    assert {entry["name"]: entry["id"] for entry in content["categories"]} == {n: i for i, n in CATEGORIES.items()}
    assert len(content["annotations"]) == sum(len(line["objects"]) for line in lines) > 0
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    for entry in content["annotations"]:
        width, height = sizes[entry["image_id"]]
        x, y, w, h = entry["bbox"]
        assert x >= 0 and y >= 0 and x + w <= width + 0.1 and y + h <= height + 0.1
        assert entry["category_id"] in CATEGORIES and entry["segmentation"]["size"] == [height, width]
    for name in ("val0", "val1", "val2"):
        picture, image = Image.open(out / f"{name}.png"), Image.open(images / f"{name}.png")
        # Images as small as these have no room for labels: the classes are listed beside them.
        assert picture.height >= image.height and picture.width > image.width
        assert picture.crop((0, 0, *image.size)).tobytes() != image.tobytes()
    own = ["--out", str(tmp_path / "own"), "--min-score", "0.0", "--colours", "instances", "--opacity"]
    assert main(["predict", str(images), "--model", str(model), *own, "1"]) == 0
    objects = {Path(line["image"]).stem: len(line["objects"]) for line in lines}
    for name, count in objects.items():
        picture = Image.open(tmp_path / "own" / f"{name}.png")
        assert picture.size == Image.open(images / f"{name}.png").size, "what has colours of its own lists no classes"
        outlined = {colour(i) for i in range(count)} & {pixel for _, pixel in picture.getcolors(2**24)}
        assert len(outlined) > 1 or count < 2
    assert main(["predict", str(images), "--model", str(model), *own, "2"]) == 2
    assert "opacity must be from 0 to 1, got 2" in refusal(capsys)
    plain = ["--out", str(out), "--min-score", "0.0", "--labels", "none"]
    assert main(["predict", str(images / "val0.png"), "--model", str(model), *plain]) == 0
    assert Image.open(out / "val0.png").size == Image.open(images / "val0.png").size
    assert main(["predict", str(images), "--model", str(model), "--out", str(out), "--min-score", "1.0"]) == 0
    assert "val1.png: nothing" in capsys.readouterr().out
    assert Image.open(out / "val1.png").tobytes() == Image.open(images / "val1.png").tobytes()
    Image.new("RGB", (1, 2000)).save(out / "thin.png")
    assert main(["predict", str(out / "thin.png"), "--model", str(model), "--out", str(out / "more")]) == 2
    assert "thin.png is 1 pixels wide and 2000 high, of which nothing is left where its longer side" in refusal(capsys)
    assert main(["predict", str(images), "--model", str(model), "--heatmaps", "all"]) == 2
    assert "--heatmaps is for classification nets, and" in capsys.readouterr().err


def test_a_killed_training_ends_at_the_same_weights(finished, folder, tmp_path, copies):
    run = tmp_path / "run"
    kill_after_a_checkpoint(copies, run, *FLAGS, f"--data.root={folder}")
    assert fit(folder, run, "--ckpt_path=last") == 0
    assert_same_weights(finished, run)


def test_two_processes_train_and_judge_as_one(folder, tmp_path, copies):
    # RetinaNet samples nothing at random; norms in evaluation see no batch; the last of five images makes shares uneven.
    data = write_coco(tmp_path / "data", (("train", 8), ("val", 5)), masks=False)
    flags = [
        *FLAGS,
        "--model.model=retinanet",
        "--model.model_args=" + ARGUMENTS.replace("neck: involution", "neck: convolution") % ", norm_eval: true",
        f"--data.root={data}",
        "--data.masks=false",
        "--data.transforms.color_jitter=0.0",
        "--data.transforms.flip=0.0",
        "--trainer.max_epochs=1",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    # Images of the two sizes in one batch are padded alike only if all are: one image a step and process.
    assert copies.run("fit", *flags, f"--run={one}")[0] == 0
    copies.run_two("fit", *flags, f"--run={two}", "--trainer.strategy=ddp", "--data.batch_size=1")
    expected, actual = columns(one), columns(two)
    assert actual["train_loss"] == pytest.approx(expected["train_loss"], rel=0.02)
    checkpoint = f"--ckpt_path={one}/checkpoints/last.ckpt"
    values = {}
    for name in ("one", "two"):
        run = tmp_path / f"judge-{name}"
        arguments = ["validate", *flags, f"--run={run}", checkpoint]
        if name == "one":
            assert copies.run(*arguments)[0] == 0
        else:
            copies.run_two(*arguments, "--trainer.strategy=ddp")
        values[name] = {key: value for key, value in columns(run).items() if key.startswith("val_")}
    assert len(values["one"]) == 7 and values["two"] == pytest.approx(values["one"], abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.num_classes=4"], "the data have 3 classes (square, bar, blob) and the model 4; set num_classes"),
        (["--model.model=yolo"], "unknown detector 'yolo'; expected one of retinanet, faster_rcnn, mask_rcnn"),
        (["--model.model_args={backbone: rednet27}"], "unknown backbone 'rednet27'"),
        (["--model.model_args={min_sise: 3}"], "unknown argument 'min_sise'"),
        (["--model.warmup_factor=2"], "warmup_factor lie between 0 and 1"),
        (["--data.masks=false"], "the model predicts masks and the data hold none; read them with --data.masks true"),
        (
            ["--model.optimizer.lr=1e30", "--model.warmup_iterations=0"],
            "the training diverged; lower the learning rate",
        ),
        (["--data.val_annotations=none.json"], "there are no annotations at"),
        (["--data.train_images=images/val"], "train0.png, which the annotations name"),
    ],
)
def test_refusals_are_sentences(folder, tmp_path, capsys, flags, words):
    assert fit(folder, tmp_path / "run", *flags) == (3 if "diverged" in words else 2)
    assert words in refusal(capsys)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_image_of_which_nothing_is_left_is_refused_before_the_first_step(tmp_path, capsys, part):
    root = write_coco(tmp_path / "coco")
    file = root / "annotations" / f"instances_{part}.json"
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": 2000, "height": 3}
    first = content["images"][0]["id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != first]
    file.write_text(json.dumps(content))
    Image.new("RGB", (2000, 3)).save(root / "images" / part / f"{part}0.png")
    assert fit(root, tmp_path / "run", "--model.model=retinanet", "--data.masks=false", *RETINA) == 2
    assert f"{part}0.png is 2000 pixels wide and 3 high, of which nothing is left where its longer" in refusal(capsys)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_how_thin_an_image_may_be_is_what_torch_makes_of_it():
    """Rounded as it rounds: for every size around the limit, torchvision's own transform decides."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    refused = 0
    for most in (48, 64, 96, 333, 640, 1333):
        detector = torch.nn.Module()
        detector.transform = GeneralizedRCNNTransform(most // 2, most, [0.0], [1.0])
        for shorter in (1, 2, 3, 7):
            for longer in range(shorter * most - 2, shorter * most + 3):
                try:
                    check_proportions(detector, [("a.png", longer, shorter)])
                except DataError:
                    refused += 1
                    with pytest.raises(RuntimeError, match="greater than 0"):
                        detector.transform([torch.zeros(1, shorter, longer)])
                else:
                    detector.transform([torch.zeros(1, shorter, longer)])
    assert refused


def test_the_warm_up_is_the_published_one_and_leaves_the_schedule_alone():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    rates = []
    for step in (0, 250, 499, 500, 9000):
        with warmed_up(optimizer, step, 500, 0.001):
            rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[0]["lr"] == 0.02
    # mmcv: regular rate times 1 − (1 − i / I) (1 − ratio).
    assert rates == pytest.approx([0.02 * 0.001, 0.02 * 0.5005, 0.02 * (1 - 0.002 * 0.999), 0.02, 0.02])


def test_a_detector_of_ones_own(tmp_path):
    from torchvision.models.detection import retinanet_resnet50_fpn

    net = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64)
    task = DetectionTask(net, num_classes=3)
    images = [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[2.0, 2.0, 20.0, 20.0]]), "labels": torch.tensor([1])}]
    task.log = task.log_dict = lambda *args, **kwargs: None
    assert torch.isfinite(task.train().training_step((images, targets), 0))
    for step in (task.train().training_step, task.eval().validation_step):
        with pytest.raises(
            TrainingError, match="the data have the label 3, and the model's 3 classes the labels 0 to 2"
        ):
            step((images, [targets[0] | {"labels": torch.tensor([3])}]), 0)
    task.save_model(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(TrainingError, match="warmup_iterations must not be negative"):
        DetectionTask(net, warmup_iterations=-1)
    for precision in ("bf16-true", "16-true"):
        task.trainer = SimpleNamespace(precision=precision)
        with pytest.raises(TrainingError, match=f"a detector does not compute in {precision}, .*; use .* bf16-mixed"):
            task.setup("fit")


def test_real_cells_are_read():
    root = os.environ.get("INVOLUTION_DATA")
    if not root or not (Path(root) / "bccd").is_dir():
        pytest.skip("INVOLUTION_DATA names no folder that holds bccd")
    from involution.data import CocoImages

    module = CocoImages("bccd", num_workers=0)
    module.prepare_data()
    module.setup("fit")
    assert module.class_names == ("RBC", "WBC", "Platelets")
    assert (len(module.sets["train"]), len(module.sets["val"])) == (205, 87)
    images, targets = next(iter(module.train_dataloader()))
    assert images[0].shape == (3, 480, 640) and len(targets[0]["boxes"]) > 0
