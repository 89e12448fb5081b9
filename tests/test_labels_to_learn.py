"""What there is to learn in the labels of a training: none, and classes without any, are said before the first step."""

import warnings

import numpy as np
import pytest
from PIL import Image
from small_coco import write_coco

from involution.commands.main import main
from involution.data import DataError, SegmentationFolders
from involution.data.coco_files import read_coco
from involution.data.label_maps import ClassTable
from involution.errors import InvolutionWarning

# Segmentation


def write_masks(root, *values, classes="background\ncell\n", mode=None):
    """Write two images for each part with label images of these values in equal stripes, and a class file."""
    labels = np.repeat(np.array([values], np.uint8), 8, 0).repeat(32 // len(values), 1)
    for part in ("train", "val"):
        for kind, pixels in (("images", np.zeros((*labels.shape, 3), np.uint8)), ("labels", labels)):
            (root / kind / part).mkdir(parents=True)
            for name in ("1.png", "2.png"):
                image = Image.fromarray(pixels)
                (image.convert(mode) if mode and kind == "labels" else image).save(root / kind / part / name)
    (root / ("classes.json" if classes.startswith("{") else "classes.txt")).write_text(classes)
    return root


def prepare(root, classes="classes.txt", **options):
    data = SegmentationFolders(root, classes=classes, batch_size=2, num_workers=0, **options)
    data.prepare_data()
    return data


REMEDY = (
    "pixels of value 255 count as no class; where they are one, give it that value in a JSON file for data.classes, such as "
    '{"classes": {"background": 0, "cell": 255}}'
)


@pytest.mark.parametrize("mode", [None, "RGB", "RGBA"])
def test_a_mask_of_0_and_255_is_refused_until_the_class_file_says_what_255_is(tmp_path, mode):
    write_masks(tmp_path, 0, 255, mode=mode)
    with pytest.raises(DataError) as refusal:
        prepare(tmp_path)
    assert str(refusal.value) == (
        f"the training labels of {tmp_path} are of one class alone, background, of which nothing can be learnt: {REMEDY}"
    )
    prepare(tmp_path, verify=False)
    # What the sentence says to do.
    (tmp_path / "classes.json").write_text(str(refusal.value).partition("such as ")[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(tmp_path, "classes.json").class_names == ("background", "cell")


def test_a_training_of_such_masks_ends_with_the_sentence(tmp_path, capsys):
    root = write_masks(tmp_path / "set", 0, 255)
    command = ["fit", "--config", "recipes/finetune/segmentation_small.yaml", "--data.root", str(root)]
    assert main([*command, "--model.num_classes", "2", "--run", str(tmp_path / "run")]) == 2
    assert REMEDY in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "classes", "words"),
    [
        (
            [1],
            "background\ncell\n",
            "are of one class alone, cell, of which nothing can be learnt: label pixels of two",
        ),
        (
            [3],
            '{"classes": ["a", "b"], "ignore_index": 3}',
            "are of no class, of which nothing can be learnt: label pixels",
        ),
        ([255], "background\ncell\n", "are of no class, of which nothing can be learnt: pixels of value 255 count"),
        # Whoever writes that 255 is ignored knows it.
        (
            [0, 255],
            '{"classes": ["a", "b"], "ignore_index": 255}',
            "one class alone, a, .*: label pixels of two classes",
        ),
        # A palette is for label images in colour.
        (
            [0, 255],
            '{"classes": ["a", "b"], "palette": [[0, 0, 0], [255, 255, 255]]}',
            "one class alone, a, .*: pixels of value 255",
        ),
    ],
)
def test_labels_of_fewer_than_two_classes_are_refused(tmp_path, values, classes, words):
    name = next(file.name for file in write_masks(tmp_path, *values, classes=classes).glob("classes.*"))
    with pytest.raises(DataError, match=words):
        prepare(tmp_path, name)


@pytest.mark.parametrize(("values", "remedy"), [((0, 1), ""), ((0, 1, 255, 255), f"; {REMEDY}")])
def test_classes_without_training_labels_are_said(tmp_path, values, remedy):
    write_masks(tmp_path, *values, classes="\n".join("abcdefgh"))
    with pytest.warns(InvolutionWarning) as said:
        prepare(tmp_path)
    assert [str(warning.message) for warning in said] == [
        f"{tmp_path} has no training labels of 6 of the 8 classes (c, d, e, f, g, …): the net learns nothing of them{remedy}"
    ]


def test_only_training_labels_have_to_hold_every_class(tmp_path):
    write_masks(tmp_path, 0, 1, 255, 255)
    for file in (tmp_path / "labels" / "val").iterdir():
        Image.new("L", (32, 8)).save(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("background\ncell\n", encoding="utf-8-sig")
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}', encoding="utf-8-sig")
    for name in ("classes.txt", "classes.json"):
        assert ClassTable.read(tmp_path / name).names == ("background", "cell")
    file = write_coco(tmp_path) / "annotations/instances_train.json"
    plain = read_coco(file)
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert read_coco(file) == plain
