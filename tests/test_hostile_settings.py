"""Settings that no training can have: a sentence and the status 2, whatever of them is wrong."""

import warnings
from functools import partial

import pytest
import torch
import yaml
from trainings import TINY, refusal

from involution import records
from involution.commands.main import main
from involution.commands.parsing import reason
from involution.data import (
    Cityscapes,
    CocoImages,
    DetectionTransforms,
    DigitObjects,
    DigitScenes,
    ImageFolders,
    ImageShards,
    ImageTransforms,
    SegmentationFolders,
    SegmentationTransforms,
    SmallImages,
)
from involution.errors import InvolutionWarning, TrainingError
from involution.models import detection
from involution.models.building import built
from involution.tasks import PolyLR, SegmentationTask, WarmupCosineLR
from involution.tasks.checks import warn_of_long_warmup
from involution.tasks.schedules import create_optimizer


def ended(*arguments):
    """Return the status of a command, whoever ends it."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.batch_size=0"], "batch_size must be at least 1, got 0"),
        (["--data.batch_size=-1"], "batch_size must be at least 1, got -1"),
        ([f"--data.batch_size={10**30}"], "batch_size must be at most 2,147,483,647, got a number beyond 18 digits"),
        (["--data.dataset=nothing"], "unknown data set 'nothing'; expected one of digits, mnist"),
        (["--data.shift=-1"], "shift must not be negative, got -1"),
        (["--data.seed=-1"], "seed must be from 0 to 4294967295, got -1"),
        ([f"--data.seed={10**30}"], "seed must be from 0 to 4294967295, got a number beyond 18 digits"),
        (["--run="], "--run is empty; say what it shall be (a dot is this folder)"),
        (["--run", ""], "--run is empty; say what it shall be"),
        (["--config="], "--config is empty; say what it shall be"),
        (["--ckpt_path", ""], "--ckpt_path is empty; say what it shall be"),
        (["--data.data_root="], "--data.data_root is empty; say what it shall be"),
        (["--model.num_classes=0"], "num_classes must be at least 2, got 0"),
        (["--model.num_classes=-3"], "num_classes must be at least 2, got -3"),
        (["--seed_everything=-1"], "--seed_everything must be from 0 to 4294967295, got -1"),
        (["--seed_everything=4294967296"], "--seed_everything must be from 0 to 4294967295"),
        (
            ["--trainer.devices=1000000"],
            f"--trainer.devices must be at most {4 * records.cores():,}, got 1000000: this command may use {records.cores()} "
            "cores; ask for fewer",
        ),
        (
            [f"--trainer.accumulate_grad_batches={10**30}"],
            "must be at most 2,147,483,647, got a number beyond 18 digits",
        ),
        (["--trainer.check_val_every_n_epoch=0"], "must be above 0, got 0; leave it out to validate after every epoch"),
        (["--trainer.check_val_every_n_epoch=-2"], "--trainer.check_val_every_n_epoch must be above 0, got -2; leave"),
        (["--trainer.val_check_interval=0"], "--trainer.val_check_interval must be above 0, got 0"),
        (["--trainer.accumulate_grad_batches=0"], "must be above 0, got 0; leave it out to take a step after every"),
        (["--model.num_classes=1000000000000"], "num_classes must be at most 1,048,576, got 1000000000000"),
        (["--model.optimizer.lr=-1"], "the optimizer cannot be made: Invalid learning rate: -1"),
        (["--model.optimizer.momentum=-1"], "the optimizer cannot be made: Invalid momentum value"),
        (
            [
                "--model.lr_scheduler=involution.tasks.WarmupCosineLR",
                "--model.lr_scheduler.epochs=2",
                "--model.lr_scheduler.warmup_epochs=5",
            ],
            "the lr_scheduler cannot be made: epochs must be at least 1 and warmup_epochs between 0 and epochs",
        ),
        (["--model.model_args={layers: [], in_chans: 1}"], "rednet26 cannot be built"),
        (["--model.model_args={layers: [0, 0, 0, 0], in_chans: 1}"], "rednet26 cannot be built"),
        (["--model.model_args={channels: [-8, 8, 8, 8], in_chans: 1}"], "rednet26 cannot be built"),
        (
            ["--model.model_args={drop_path_rate: 5, in_chans: 1}"],
            "drop_path_rate must be a share from 0 to below 1, got 5",
        ),
        (
            ["--model.loss=torch.nn.BCELoss"],
            "the loss BCELoss cannot be computed of logits (",
        ),
        (
            ["--model.loss=torch.nn.CrossEntropyLoss", "--model.loss.reduction=none"],
            "; name one that gives their mean",
        ),
        (["--trainer.strategy=nothing"], "nothing"),
        (
            ["--trainer.strategy=ddp_spawn"],
            "--trainer.strategy=ddp_spawn starts its processes out of a notebook's; a command starts each anew with ddp",
        ),
        (["--trainer.accelerator=tpu"], "the trainer cannot be made: Requirement 'torch_xla"),
        (["--trainer.accelerator=nothing"], "nothing"),
        # A parser may take the number for text and quote it.
        (["--trainer.devices=0"], "the trainer cannot be made: `Trainer(devices="),
        (
            ["--trainer.devices=0"],
            "value is not a valid input using cpu accelerator; correct what --trainer says",
        ),
        (["--trainer.max_epochs=-5"], "max_epochs"),
        (["--trainer.precision=3"], "3"),
    ],
    ids=lambda value: value[0].removeprefix("--") if isinstance(value, list) else None,
)
def test_a_setting_out_of_range(tmp_path, capsys, flags, words):
    assert ended("fit", *TINY, f"--run={tmp_path / 'run'}", *flags) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_an_empty_run_in_a_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("run: ''\n")
    assert ended("fit", *TINY, "--config=c.yaml") == 2
    assert "run is empty in the configuration; say what it shall be" in refusal(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
@pytest.mark.parametrize(
    "make",
    [
        SmallImages,
        DigitScenes,
        DigitObjects,
        Cityscapes,
        partial(ImageFolders, "x"),
        partial(ImageShards, "x"),
        partial(CocoImages, "x"),
        partial(SegmentationFolders, "x"),
    ],
    ids=lambda make: getattr(make, "func", make).__name__,
)
def test_every_set_takes_the_same_seeds(make, seed):
    with pytest.raises(ValueError, match=r"^seed must be from 0 to 4294967295, got "):
        make(seed=seed)
    assert make(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize("make", [ImageFolders, ImageShards, CocoImages, SegmentationFolders])
def test_more_processes_than_a_machine_has_are_not_started(make):
    for number, words in (
        (1025, "num_workers must be at most 1,024, got 1025"),
        (-1, "num_workers must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            make("x", num_workers=number)
    assert make("x", num_workers=1024).num_workers == 1024


@pytest.mark.parametrize("make", [ImageFolders, ImageShards, CocoImages, SegmentationFolders, Cityscapes])
def test_an_empty_root_is_not_the_folder_that_one_is_in(make):
    with pytest.raises(ValueError, match=r"root is empty; name the folder of the data set \(. for this one\)"):
        make("")


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--model.leraning_rate=1", "leraning_rate"),
        ("--model.optimizer.lerning=1", "lerning"),
        ("--data.bach_size=3", "bach_size"),
        ("--trainer.max_epochz=3", "max_epochz"),
        ("--data.batch_size=many", "batch_size"),
        ("--num_classes=3", "involution fit: unrecognized arguments: --num_classes=3; expected --model.num_classes"),
        ("--max-epochs=3", "--max-epochs=3; expected --trainer.max_epochs"),
        ("--config=recipes/cifar10/none.yaml", "recipes/cifar10/none.yaml'; recipes/cifar10 holds ablations, base, "),
    ],
)
def test_a_misspelt_flag_is_in_the_first_of_few_lines(tmp_path, capsys, flag, word):
    assert ended("fit", *TINY, f"--run={tmp_path / 'run'}", flag) == 2
    lines = capsys.readouterr().err.splitlines()
    assert word in lines[0] and len(lines) <= 10 and all(len(line) <= 310 for line in lines)


def test_what_matters_of_a_message_of_the_parser_is_found():
    around = (
        "Does not validate against any of the Union subtypes\nSubtypes: [<class 'A'>, <class 'NoneType'>]\nErrors:\n"
    )
    after = "- Expected a <class 'NoneType'>\nGiven value type: <class 'B'>"
    assert reason(f"{around}- batch_size must be at least 1, got 0\n{after}") == "batch_size must be at least 1, got 0"
    assert reason("Parser key \"top\":\n  Expected a <class 'int'>. Got value: x").startswith("--top: Expected a ")
    assert reason("") == ""
    nested = 'Parser key "model":\n  Errors:\n  Parser key "optimizer":\n  Type A expects a class: Parser key "lr":\n'
    number = "- Expected a <class 'float'>\n- Expected a dot import path string: abc\nGiven value: abc"
    assert reason(nested + number) == "--model.optimizer.lr: Expected a <class 'float'>"
    assert reason(f"{nested}- Expected a path\n{nested}{number}") == "--model.optimizer.lr: Expected a <class 'float'>"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], "the following arguments are required: images"),
        (["predict", "a.png", "--top", "x"], "--top: Expected a <class 'int'>"),
        (["compare", "--epochs", "many"], "--epochs"),
        (["export"], "required"),
        (["pack", "a", "b", "--seed=-1"], "--seed must be from 0 to 4294967295, got -1"),
        (["pack", "a", "b", f"--seed={10**30}"], "--seed must be from 0 to 4294967295, got a number beyond 18 digits"),
        (["compare", f"--seed={2**32 - 1}", "--repeats=2"], "--seed must be from 0 to 4294967294, got 4294967295"),
        (["export", "rednet26", "--weights=random", "--opset=1"], "opset_version must be at least 18, got 1"),
        (["export", "rednet26", "--tolerance=-1"], "--tolerance must be a number from 0 on, got -1"),
        (["benchmark", "rednet26", "--threads=0"], "--threads, --rounds and --processes must be at least 1"),
        (["pack", "a", ""], "an argument is empty; say what it shall be (a dot is this folder)"),
        (["pack", "", "b"], "an argument is empty; say what it shall be"),
        (["voc2coco", "a", "b", "--names="], "--names is empty; say what it shall be"),
        (["predict", "a.png", "--out", ""], "--out is empty; say what it shall be"),
        (["convert", "a", "--out="], "--out is empty; say what it shall be"),
        (["search", "--runs", ""], "--runs is empty; say what it shall be"),
        (["study", "cifar10", "--out="], "--out is empty; say what it shall be"),
        (["doctor", "--x"], "unknown option --x; there are none but --help"),
        (["fit", "--config", "/etc/passwd"], "holds no recipe; expected keys such as 'model' and 'data'"),
    ],
)
def test_a_wrong_usage_of_a_command(capsys, arguments, words):
    assert ended(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert words in lines[0] and lines[0].startswith(f"involution {arguments[0]}: ") and len(lines) <= 10


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "model: &m {class_path: x, init_args: *m}", "&a {b: *a}"]
    + [
        "a: &a [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1 if i else ''}, *a{i - 1 if i else ''}]\n" for i in range(40))
    ],
    ids=["list", "inside", "whole", "bomb"],
)
def test_aliases_that_have_no_end(tmp_path, capsys, text):
    (tmp_path / "a.yaml").write_text(text)
    assert ended("fit", "--config", str(tmp_path / "a.yaml"), f"--run={tmp_path / 'run'}") == 2
    assert "a.yaml is nested too deeply, or has a part that contains itself; write out what its" in refusal(capsys)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"[" * 5000, b"a: [", b"- a", b"3", b"\0", b"!!python/object:os.system {}"]
)
def test_any_file_in_the_place_of_a_recipe(tmp_path, capsys, content):
    (tmp_path / "a.yaml").write_bytes(content)
    assert ended("fit", "--config", str(tmp_path / "a.yaml"), f"--run={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error and "Traceback" not in error


def test_ordinary_aliases_are_taken(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"seed_everything": 3}) + "trainer: {min_epochs: &n 2, max_epochs: *n}\n"
    )
    assert ended("fit", "--config", str(tmp_path / "a.yaml"), *TINY[:-5], "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["min_epochs"] == 2


def test_only_what_is_news_is_said(tmp_path, capsys, caplog):
    flags = [flag for flag in TINY if "summary" not in flag]
    assert main(["fit", *flags, f"--run={tmp_path / 'run'}", "--trainer.max_epochs=1"]) == 0
    said = capsys.readouterr()
    text = said.out + said.err + caplog.text
    for words in ("Tip", "litlogger", "Total Flops", "many workers", "LeafSpec", "logging interval", "weights_only"):
        assert words not in text


# What nets are told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"min_size": 0}, "min_size must be a number of pixels from 1 to 4096, got 0"),
        ({"min_size": [64, -1]}, r"min_size must be a number of pixels from 1 to 4096, got \[64, -1\]"),
        ({"min_size": []}, "min_size must be a number of pixels from 1 to 4096"),
        ({"min_size": "big"}, "min_size must be a number of pixels from 1 to 4096, got 'big'"),
        ({"max_size": 10**9}, "max_size must be a number of pixels from 1 to 4096, got 1000000000"),
        ({"fixed_size": [0, 5]}, "fixed_size must be a width and a height from 1 to 4096"),
        ({"image_mean": [0.5]}, "image_mean and image_std must be as many, got 1 and 3"),
        ({"image_std": [0, 1, 1]}, "image_std must be above zero in every channel"),
        ({"box_score_thresh": "a"}, "box_score_thresh must be a number from 0 to 1, got 'a'"),
        ({"box_nms_thresh": -1}, "box_nms_thresh must be a number from 0 to 1, got -1"),
        ({"rpn_post_nms_top_n_train": 0}, "rpn_post_nms_top_n_train must be a whole number from 1 on, got 0"),
        ({"box_batch_size_per_image": -1}, "box_batch_size_per_image must be a whole number from 1 on, got -1"),
        ({"anchor_sizes": [1, 2, 3, 4, -5]}, r"anchor_sizes\[4\] must be a whole number from 1 on, got -5"),
        ({"anchor_sizes": 3}, "faster_rcnn cannot be built with .*'anchor_sizes': 3"),
        ({"neck_channels": 0}, "neck_channels must be a whole number from 1 on, got 0"),
        ({"box_channels": "a"}, "box_channels must be a whole number from 1 on, got 'a'"),
        ({"roi_sampling_ratio": -1}, "roi_sampling_ratio must be a whole number from 0 on, got -1"),
        ({"backbone_args": 3}, "faster_rcnn cannot be built with"),
        ({"out_indices": [9]}, "rednet26 cannot be a backbone with out_indices=.9,"),
        ({"neck": "nothing"}, "unknown neck 'nothing'; expected 'involution', 'convolution'"),
    ],
)
def test_what_a_detector_would_fail_by_later_is_refused_when_it_is_built(arguments, words):
    small = {"backbone": "rednet26", "backbone_args": {"channels": [8, 8, 8, 8], "stem": "small"}}
    with pytest.raises(ValueError, match=words) as caught:
        detection.create("faster_rcnn", 3, **{**small, **arguments})
    assert "\n" not in str(caught.value)


def test_memory_that_is_not_enough_is_no_fault_of_an_argument():
    def build(size):
        raise RuntimeError(f"[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate {size}")

    with pytest.raises(RuntimeError, match="allocate memory") as caught:
        built("net", build, size=3)
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window": [0, 0]}, r"window and stride must be a height and a width, got \(0, 0\)"),
        ({"window": [8]}, "window and stride must be a height and a width"),
        ({"window": [8, 8], "stride": [9, 8]}, "stride must be at least 1 and at most the window"),
        ({"stride": [9, 8]}, "stride belongs to a window"),
        ({"scales": []}, "scales must be factors from 0.1 to 10"),
        ({"scales": [1.0, float("nan")]}, "scales must be factors from 0.1 to 10"),
        ({"auxiliary_weight": float("nan")}, "auxiliary_weight must be a number from 0 on, got nan"),
        ({"auxiliary_weight": -1}, "auxiliary_weight must be a number from 0 on, got -1"),
        ({"model_args": {"head_channels": "a"}}, "semantic_fpn cannot be built with {'head_channels': 'a'}"),
    ],
)
def test_how_a_segmentation_is_judged_is_checked_before_it_is_trained(arguments, words):
    with pytest.raises(TrainingError, match=words):
        SegmentationTask("semantic_fpn", 3, **arguments)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (ImageTransforms, {"image_size": 10**6}, "image_size must be from 1 to 4,096 pixels, got 1000000"),
        (ImageTransforms, {"crop_fraction": 0}, "crop_fraction must lie between 0.1 and 1 and min_scale above 0"),
        (ImageTransforms, {"min_scale": float("nan")}, "min_scale above 0 and up to 1, got 0.875 and nan"),
        (ImageTransforms, {"interpolation": "nothing"}, "unknown interpolation 'nothing'; expected one of 'nearest'"),
        (ImageTransforms, {"mean": [0.5, 0.5]}, "mean must be a number per channel, 1 or 3 of them, got 2"),
        (ImageTransforms, {"std": [0, 0, 0]}, r"std must be above zero in every channel, got \(0, 0, 0\)"),
        (ImageTransforms, {"std": [float("nan"), 1, 1]}, r"std\[0\] must be a finite number, got nan"),
        (ImageTransforms, {"auto_augment": "nothing"}, "unknown auto_augment 'nothing'; expected a policy of timm"),
        (ImageTransforms, {"flip": 2}, "flip must be a probability from 0 to 1, got 2"),
        (ImageTransforms, {"color_jitter": -1}, "color_jitter must be a strength from 0 to 1, got -1"),
        (
            ImageTransforms,
            {"color_jitter": 0.4, "auto_augment": "rand-m9-mstd0.5"},
            "color_jitter of 0.4 does nothing beside the policy 'rand-m9-mstd0.5', which changes colours itself; give one",
        ),
        (DetectionTransforms, {"color_jitter": -1}, "color_jitter must be a strength from 0 to 1, got -1"),
        (SegmentationTransforms, {"std": [1, 0, 1]}, "std must be above zero in every channel"),
        (SegmentationTransforms, {"scale_range": (1e6, 1e6)}, "scale_range must be two factors up to 10"),
        (SegmentationTransforms, {"crop_size": (10**6, 1)}, "crop_size must be a height and a width from 1 to 8,192"),
    ],
)
def test_what_happens_to_images_is_checked_before_one_is_read(make, options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


@pytest.mark.parametrize(
    ("schedule", "options", "words"),
    [
        (WarmupCosineLR, {"epochs": 3, "warmup_epochs": 1, "warmup_factor": -3}, "warmup_factor must be a share"),
        (PolyLR, {"min_lr": 0, "warmup_factor": float("nan")}, "warmup_factor must be a share of the base rate"),
        (PolyLR, {"min_lr": 0, "power": -1}, "power must be a number from 0 on, got -1"),
    ],
)
def test_schedules_that_would_go_below_zero(schedule, options, words):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(TrainingError, match=f"the lr_scheduler cannot be made: {words}"):
        create_optimizer(torch.optim.SGD, parameters, partial(schedule, **options))
    with pytest.raises(TrainingError, match="the optimizer cannot be made: lr must be a finite number, got nan"):
        create_optimizer(partial(torch.optim.SGD, lr=float("nan")), parameters, None)


def test_a_warm_up_that_outlasts_the_training_is_said():
    with pytest.warns(
        InvolutionWarning, match="the warm-up of 100 steps is longer than the training of 72, which never"
    ):
        warn_of_long_warmup(100, 72, "--model.warmup_iterations")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_long_warmup(72, 72, "--model.warmup_iterations")
