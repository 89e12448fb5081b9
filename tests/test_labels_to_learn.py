"""What there is to learn in the labels of a training: none, and classes without any, are said before the first step."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_coco import add, write_coco

from involution.commands.main import main
from involution.data import CocoImages, DataError, SegmentationFolders
from involution.data.coco_files import read_coco
from involution.data.label_maps import ClassTable, read_labels
from involution.errors import InvolutionWarning, TrainingError
from involution.tasks.checks import check_classes

ROOT_FILE = "annotations/instances_train.json"


# Every task


@pytest.mark.parametrize(
    ("names", "num_classes", "least", "words"),
    [
        ("a", 2, 2, "the data have one class, a, of which nothing can be learnt; add another, such as one of all else"),
        ("a", 3, 1, "the data have 1 class (a) and the model 3; set num_classes to 1"),
        ("abc", 2, 2, "the data have 3 classes (a, b, c) and the model 2; set num_classes to 3"),
        ("abcd", 2, 2, "the data have 4 classes (a, b, c, …) and the model 2; set num_classes to 4"),
    ],
)
def test_other_classes_than_those_of_the_model_are_said(names, num_classes, least, words):
    with pytest.raises(TrainingError) as refused:
        check_classes(SimpleNamespace(class_names=tuple(names)), num_classes, least)
    assert str(refused.value) == words


def test_a_detector_may_learn_one_class():
    check_classes(SimpleNamespace(class_names=("cell",)), 1, 1)


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


@pytest.mark.parametrize("colour", [(9, 9, 9), (1, 2, 3)])
@pytest.mark.parametrize("palette", [(), ((120, 170, 230), (90, 90, 95))])
def test_label_images_are_no_jpeg(tmp_path, colour, palette):
    Image.new("RGB", (8, 8), colour).save(tmp_path / "a.jpg")
    with pytest.raises(
        DataError, match=r"a.jpg .*; JPEG changes the values of label images; save them as PNG, from the or"
    ):
        read_labels(tmp_path / "a.jpg", ClassTable(("sky", "road"), colours=palette))


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("background\ncell\n", encoding="utf-8-sig")
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}', encoding="utf-8-sig")
    for name in ("classes.txt", "classes.json"):
        assert ClassTable.read(tmp_path / name).names == ("background", "cell")
    file = write_coco(tmp_path) / ROOT_FILE
    plain = read_coco(file)
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert read_coco(file) == plain


# Detection


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "set")


def set_up(root, change=None, **arguments):
    """Change the training annotations; return the data and what they warn of."""
    content = json.loads((root / ROOT_FILE).read_text())
    if change:
        change(content)
    (root / ROOT_FILE).write_text(json.dumps(content))
    data = CocoImages(root, num_workers=0, **arguments)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data.setup("fit")
    return data, [str(warning.message) for warning in said if "are empty or outside" not in str(warning.message)]


def give_boxes(make):
    """Return a change that makes every box of its x, y, width, height and its image's width and height."""

    def change(content):
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for entry in content["annotations"]:
            entry["bbox"] = make(*entry["bbox"], *sizes[entry["image_id"]])

    return change


@pytest.mark.parametrize("keep_empty", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(annotations=[]), "has no box to train on; annotate objects that are no crowds"),
        (
            lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]],
            "has no box to train on; annotate objects that are no crowds",
        ),
        (
            give_boxes(lambda x, y, w, h, width, height: [x / width, y / height, w / width, h / height]),
            r"has no box to train on: those that it has \(17\) are empty or outside their image; give x, y, width and height in pixels",
        ),
    ],
    ids=["none", "crowds", "shares"],
)
def test_annotations_without_a_box_to_train_on_are_refused(root, change, words, keep_empty):
    with pytest.raises(DataError, match=rf"instances_train.json {words}"):
        set_up(root, change, keep_empty=keep_empty)
    # Evaluation takes them.
    CocoImages(root, val_annotations=ROOT_FILE, val_images="images/train").setup("validate")


def test_categories_without_boxes_are_said(root):
    # The one bar that is left lies outside its image.
    data, said = set_up(
        root,
        lambda content: content.update(
            annotations=[e for e in content["annotations"] if e["category_id"] == 3 or e["bbox"][0] == 500]
        ),
    )
    assert said == [
        f"{root / ROOT_FILE} has no boxes to train on for 2 of the 3 categories (bar, blob): the detector learns nothing of them"
    ]
    assert len(data.sets["train"]) == 6
    assert set_up(write_coco(root.with_name("other")))[1] == []


def test_boxes_given_as_corners_are_said(root):
    _, said = set_up(root, give_boxes(lambda x, y, w, h, *_: [x, y, x + w, y + h]))
    assert len(said) == 1 and said[0].endswith(
        f" boxes of {root / ROOT_FILE} reach beyond their image and are clipped: COCO's boxes are x, y, width and height, no "
        "two corners; correct them if that is how they are meant"
    )


@pytest.mark.parametrize(
    ("inside", "beyond", "by", "is_said"),
    [(0, 2, 9, False), (0, 3, 9, True), (0, 3, 2, False), (60, 3, 9, False), (50, 3, 9, True)],
)
def test_a_few_boxes_beyond_their_image_are_no_corners(root, inside, beyond, by, is_said):
    def change(content):
        image = content["images"][0]
        content["annotations"] = []
        for category in (3, 7, 90, *[3] * inside):
            add(content, image["id"], category, [1, 1, 5, 5], [])
        for _ in range(beyond):
            add(content, image["id"], 3, [10, 10, image["width"] - 10 + by, 5], [])
        # Crowds are not trained on.
        for _ in range(5):
            add(content, image["id"], 3, [10, 10, 90, 90], [], iscrowd=1)

    _, said = set_up(root, change)
    assert bool(said) == is_said and all(f"{beyond} boxes of" in words for words in said)
