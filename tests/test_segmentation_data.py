"""Images with a class for every pixel: reading, refusals, augmentation."""

import json

import numpy as np
import pytest
import street_scenes
import torch
from PIL import Image

pytest.importorskip("lightning", reason="the DataModules are Lightning's")

from involution.data import Cityscapes, ClassTable, DataError, DigitScenes, SegmentationFolders, SegmentationTransforms
from involution.data.label_maps import IGNORE, read_labels
from involution.data.sampling import EvenSampler
from involution.data.segmentation_transforms import distort, fitted, random_resize_crop

TABLE = ClassTable(("sky", "road", "box"), (0, 1, 7), (3,), ((120, 170, 230), (90, 90, 95), (200, 60, 40)))
VALUES = np.array([[0, 1, 7], [3, 255, 0]], np.uint8)
EXPECTED = [[0, 1, 2], [IGNORE, IGNORE, 0]]


def palette_image():
    image = Image.fromarray(VALUES, mode="P")
    # Colours that would give other classes if they were read in place of the values.
    image.putpalette([200, 60, 40] * 256)
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(VALUES),
        palette_image(),
        Image.fromarray(np.repeat(VALUES[..., None], 3, 2)),
        Image.fromarray(VALUES.astype(np.uint16)),
        Image.fromarray(
            np.array(
                [[[120, 170, 230], [90, 90, 95], [200, 60, 40]], [[0, 0, 0], [0, 0, 0], [120, 170, 230]]], np.uint8
            )
        ),
    ],
    ids=["grey", "palette", "grey in colour", "16 bits", "colours"],
)
def test_label_images_of_every_kind(tmp_path, image):
    image.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png", TABLE).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            Image.fromarray(np.full((2, 3), 9, np.uint8)),
            r'a.png holds the value 9 in 6 of its 6 pixels.*\(values 0, 1, 7\) .*; correct it; .*"ignore_index": \[3, 9\]}$',
        ),
        (Image.fromarray(np.full((2, 3), 900, np.uint16)), r"holds the value 900 in 6 of its 6 pixels.*; correct it$"),
        (
            Image.new("RGB", (2, 2), (1, 2, 3)),
            r"a.png holds the colour \(1, 2, 3\) in 4 of its 4 pixels, which the class",
        ),
        (
            Image.new("LA", (2, 2)),
            r"a.png cannot be read as a label image: its mode is LA, expected grey, palette or RGB",
        ),
    ],
    ids=["value", "16 bits", "colour", "mode"],
)
def test_labels_outside_the_classes_are_refused_with_their_file(tmp_path, image, words):
    image.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=words):
        read_labels(tmp_path / "a.png", TABLE)


BLACK_AND_WHITE = {"classes": ["background", "cell"], "palette": [[0, 0, 0], [255, 255, 255]]}
SKY = {"classes": ["sky", "building"], "palette": [[128, 128, 128], [128, 0, 0]]}
VOID = {"classes": {"road": 0, "void": 11}, "ignore_index": 11, "palette": [[128, 64, 128], [64, 0, 0]]}


@pytest.mark.parametrize(
    ("classes", "colours", "expected"),
    [
        (BLACK_AND_WHITE, [(0, 0, 0), (255, 255, 255)], [0, 1]),
        (SKY, [(128, 128, 128), (0, 0, 0)], [0, IGNORE]),
        (VOID, [(128, 64, 128), (64, 0, 0)], [0, IGNORE]),
        # Where the palette does not have them all, grey pixels are values.
        (BLACK_AND_WHITE, [(0, 0, 0), (1, 1, 1)], [0, 1]),
    ],
    ids=["black and white", "grey", "ignored", "values"],
)
def test_colours_of_the_palette_come_before_values(tmp_path, classes, colours, expected):
    Image.fromarray(np.array([colours], np.uint8)).save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png", ClassTable.from_dict(classes)).tolist() == [expected]


@pytest.mark.parametrize(
    ("classes", "colours", "words"),
    [
        (
            SKY,
            [(99, 99, 99)],
            r"a.png holds the colour \(99, 99, 99\) in 1 of its 1 pixels, which the class file's palette",
        ),
        (["sky"], [(128, 0, 0)], "a.png is in colour and the class file has no palette; add it, or save label"),
    ],
)
def test_colours_that_no_class_has_are_refused(tmp_path, classes, colours, words):
    Image.fromarray(np.array([colours], np.uint8)).save(tmp_path / "a.png")
    table = ClassTable(tuple(classes)) if isinstance(classes, list) else ClassTable.from_dict(classes)
    with pytest.raises(DataError, match=words):
        read_labels(tmp_path / "a.png", table)


def test_a_label_image_is_written_in_the_values_of_the_data_set(tmp_path):
    TABLE.label_image(np.array([[0, 1], [2, 2]])).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    assert np.asarray(image).tolist() == [[0, 1], [7, 7]]
    assert np.asarray(image.convert("RGB"))[1, 1].tolist() == [200, 60, 40]
    assert read_labels(tmp_path / "a.png", TABLE).tolist() == [[0, 1], [2, 2]]


def test_class_files_of_every_kind(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nroad\n\nbox\n")
    plain = ClassTable.read(tmp_path / "classes.txt")
    assert (plain.names, plain.values, plain.ignored) == (("sky", "road", "box"), (0, 1, 2), ())
    assert len(set(plain.colours)) == 3
    # As SegNet's CamVid: the last name is what is ignored.
    listed = {"classes": ["a", "b", "void"], "ignore_index": 2, "palette": [[1, 2, 3], [4, 5, 6], [0, 0, 0]]}
    (tmp_path / "classes.json").write_text(json.dumps(listed))
    table = ClassTable.read(tmp_path / "classes.json")
    assert table == ClassTable(("a", "b"), (0, 1), (2,), ((1, 2, 3), (4, 5, 6)), ((0, 0, 0),))
    assert ClassTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE
    # A mask of 0 and 255: there 255 is a class.
    mask = ClassTable(("background", "object"), (0, 255))
    assert mask.lookup()[[0, 255]].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as a class file"),
        ("{}", "does not describe classes: the key 'classes' is missing"),
        ('{"classes": []}', "there is no class in it"),
        ('{"classes": ["a", "a"]}', "the class 'a' stands in it twice"),
        ('{"classes": {"a": 0, "b": 300}}', "values must be whole numbers from 0 to 255, got 300"),
        ('{"classes": {"a": 1, "b": 1}}', "two classes have the same value"),
        ('{"classes": ["a"], "palette": [[0, 0, 0], [1, 1, 1]]}', "palette has 2 colours for 1 classes"),
        ('{"classes": ["a"], "palette": [[0, 0, 256]]}', "a colour has three whole numbers from 0 to 255"),
        (
            '{"classes": ["road", "kerb"], "palette": [[9, 0, 9], [9, 0, 9]]}',
            r"'kerb' has the colour \(9, 0, 9\) of another",
        ),
        (
            '{"classes": {"road": 0, "void": 1}, "ignore_index": 1, "palette": [[9, 0, 9], [9, 0, 9]]}',
            r"the class 'road' has the colour \(9, 0, 9\) of another one",
        ),
        ('{"classes": [1]}', "classes must be a list of names or an object from name to value"),
        ("[1]", "classes must be a list of names or an object from name to value"),
        ("3", "it must be a mapping with the key 'classes', got 3; correct it, such as to"),
        ('{"classes": 3}', "classes must be a list, got 3; correct it, such as to"),
        ('{"classes": ["a"], "palette": 3}', "palette must be a list with something in it, got 3"),
        ('{"classes": ["a"], "palette": [3]}', r"palette\[0\] must be a list with something in it, got 3"),
        (
            '{"classes": ["a"], "palette": [["r"]]}',
            r"palette\[0\]\[0\] must be a whole number of at most 18 digits, got 'r'",
        ),
        ('{"classes": ["a"], "ignore_index": "x"}', "ignore_index must be a list, got 'x'"),
    ],
)
def test_class_files_are_refused_in_words(tmp_path, text, words):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as refusal:
        ClassTable.read(path)
    assert str(path) in str(refusal.value)
    form = "expected a text file with one class name a line, or JSON"
    for name, words in (("none.txt", form), ("classes.txt", "there is .*, which --data.classes classes.json takes")):
        with pytest.raises(DataError, match=f"there is no .*{name}; {words}"):
            ClassTable.read(tmp_path / name)


@pytest.fixture
def root(tmp_path):
    return street_scenes.write_folders(tmp_path / "streets", train=4, val=2)


def folders(root, **options):
    transforms = SegmentationTransforms((32, 48))
    return SegmentationFolders(root, batch_size=2, num_workers=0, transforms=transforms, **options)


def test_folders_give_crops_and_whole_images(root):
    data = folders(root)
    data.setup()
    assert data.class_names == street_scenes.CLASSES
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((2, 3, 32, 48), torch.float32)
    assert (labels.shape, labels.dtype) == ((2, 32, 48), torch.int64)
    assert set(labels.unique().tolist()) <= {0, 1, 2, IGNORE}
    sizes = [tuple(image.shape[2:]) for image, _ in data.val_dataloader()]
    assert sizes == [(41, 53), (43, 53)]
    assert all(image.shape[2:] == labels.shape[1:] for image, labels in data.test_dataloader())


def break_pair(root, how):
    target = root / "labels" / "train" / "1.png"
    if how == "label":
        target.unlink()
    elif how == "image":
        (root / "images" / "train" / "1.png").unlink()
    elif how == "size":
        Image.new("L", (10, 20)).save(target)
    elif how == "damaged":
        target.write_bytes(b"\x89PNG\r\n\x1a\nthis is no picture")
    elif how == "twice":
        Image.new("RGB", (56, 40)).save(root / "images" / "train" / "1.jpg")
    elif how == "few":
        for i in range(1, 4):
            for kind in ("images", "labels"):
                (root / kind / "train" / f"{i}.png").unlink()
    elif how == "classes":
        (root / "classes.json").unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("label", r"images/train/1.png has no label image; expected .*labels/train/1.png, or remove the image"),
        ("image", r"labels/train/1.png has no image of the same name in .*images/train"),
        ("size", r"labels/train/1.png has 10×20 pixels and its image .*images/train/1.png 56×40"),
        ("damaged", r"labels/train/1.png cannot be read as a label image"),
        ("twice", r"images/train/1.jpg and .*images/train/1.png have the same name"),
        ("few", r"training images of .* \(1\) do not fill a batch of 2; lower data.batch_size"),
        ("classes", r"there is no .*classes.json; expected a text file"),
    ],
)
def test_broken_folders_are_refused_with_the_file(root, how, words):
    break_pair(root, how)
    with pytest.raises(DataError, match=words):
        folders(root).setup("fit")


def test_empty_folders_are_refused(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["a"]}')
    with pytest.raises(DataError, match=r"no image found in .*images/train; expected files such as"):
        folders(tmp_path).setup("fit")


def test_a_damaged_image_and_an_unknown_value_are_named_when_they_are_read(root):
    data = folders(root)
    data.setup("fit")
    Image.fromarray(np.full((40, 56), 99, np.uint8)).save(root / "labels" / "train" / "0.png")
    with pytest.raises(DataError, match=r"labels/train/0.png holds the value 99 in 2240 of its 2240 pixels"):
        data.sets["train"][0]
    whole = (root / "images" / "train" / "2.png").read_bytes()
    (root / "images" / "train" / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"images/train/2.png cannot be read as an image"):
        data.sets["train"][2]


def test_labels_may_have_a_suffix_and_lie_deeper(root):
    for i in range(4):
        for kind, suffix in (("images", ""), ("labels", "_L")):
            (root / kind / "train" / "city").mkdir(exist_ok=True)
            (root / kind / "train" / f"{i}.png").rename(root / kind / "train" / "city" / f"{i}{suffix}.png")
    pairs = folders(root, label_suffix="_L").pairs("train")
    assert [image.name for image, _ in pairs] == ["0.png", "1.png", "2.png", "3.png"]
    assert pairs[3][1] == root / "labels" / "train" / "city" / "3_L.png"


def test_cityscapes_has_its_19_classes(tmp_path):
    root = street_scenes.write_cityscapes(tmp_path)
    data = Cityscapes(root, num_workers=0, transforms=SegmentationTransforms((32, 48)))
    data.setup("fit")
    assert len(data.class_names) == 19
    assert (data.class_names[0], data.class_names[13], data.class_names[18]) == ("road", "car", "bicycle")
    image, labels = next(iter(data.val_dataloader()))
    assert image.shape == (1, 3, 32, 64)
    assert labels[0, 0].unique().tolist() == [IGNORE]
    assert set(labels[0, 1:].unique().tolist()) == {0, 10, 13}  # road, sky, car
    # What predict writes are the ids that the benchmark takes.
    assert set(np.asarray(data.classes.label_image(np.array([[0, 18]]))).ravel()) == {7, 33}
    (root / "gtFine" / "val" / "aachen" / "aachen_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"000001_000019_gtFine_labelIds.png is missing; every image needs"):
        Cityscapes(root).setup("validate")
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(
        DataError, match=r"nowhere does not hold Cityscapes; expected the folders leftImg8bit and gtFine"
    ):
        Cityscapes(tmp_path / "nowhere").setup("fit")


def test_crops_are_padded_where_the_image_is_smaller():
    transforms = SegmentationTransforms((64, 80), scale_range=(0.5, 0.5), flip=0, mean=(0, 0, 0), std=(1, 1, 1))
    image, classes = street_scenes.scene(51, 33, 0)
    pixels, labels = transforms.train(Image.fromarray(image), classes)
    assert (pixels.shape, labels.shape) == ((3, 64, 80), (64, 80))
    assert (labels[26:] == IGNORE).all() and (labels[:, 16:] == IGNORE).all()
    assert (labels[:26, :16] != IGNORE).all()
    assert pixels[:, 26:].abs().max() == 0


def test_image_and_labels_stay_together():
    transforms = SegmentationTransforms((24, 24), photometric_distortion=False, mean=(0, 0, 0), std=(1, 1, 1))
    classes = np.random.default_rng(0).integers(0, 2, (6, 8)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
    image = Image.fromarray((255 * classes)[..., None].repeat(3, 2))
    for seed in range(8):
        torch.manual_seed(seed)
        pixels, labels = transforms.train(image, classes)
        valid = labels != IGNORE
        agree = (pixels[0] > 0.5).long()[valid] == labels[valid]
        # Only where the interpolation mixes two pixels may they differ.
        assert agree.float().mean() > 0.9, seed


def test_a_class_that_dominates_is_avoided():
    classes = torch.zeros(64, 64, dtype=torch.uint8)
    classes[:16, :16] = 1
    pixels = torch.zeros(3, 64, 64, dtype=torch.uint8)
    shares = {}
    for limit in (1.0, 0.75):
        crops = [random_resize_crop(pixels, classes, (64, 64), (16, 16), limit)[1] for _ in range(200)]
        shares[limit] = sum(float((crop == 0).float().mean()) < 0.75 for crop in crops) / 200
    assert shares[1.0] < 0.1
    assert shares[0.75] > 3 * shares[1.0]


def test_crops_without_a_label_are_possible():
    classes = torch.full((20, 20), IGNORE, dtype=torch.uint8)
    _, cropped = random_resize_crop(torch.zeros(3, 20, 20, dtype=torch.uint8), classes, (20, 20), (8, 8), 0.75)
    assert cropped.unique().tolist() == [IGNORE]


def test_distortion_changes_colours_within_its_bounds():
    image = torch.rand(3, 16, 16)
    changed = 0
    for seed in range(40):
        torch.manual_seed(seed)
        result = distort(image)
        assert result.min() >= 0 and result.max() <= 1
        changed += not torch.equal(result, image)
    assert 30 < changed < 40
    # Grey has neither saturation nor hue: a distortion leaves it grey.
    torch.manual_seed(1)
    grey = distort(torch.full((3, 4, 4), 0.5))
    torch.testing.assert_close(grey[0], grey[2])


def test_images_are_fitted_with_their_proportions():
    assert fitted((1080, 1920), None) == (1080, 1920)
    assert fitted((1080, 1920), (512, 1024)) == (512, 910)
    assert fitted((1, 500), (100, 100)) == (1, 100)
    pixels = SegmentationTransforms(image_size=(30, 30)).evaluate(Image.new("RGB", (100, 51)))
    assert pixels.shape == (3, 15, 30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop_size": (0, 4)}, r"crop_size must be a height and a width from 1 to 8,192 pixels, got \(0, 4\)"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range must be two factors up to 10, the smaller first, got \(2.0, 1.0\)"),
        ({"max_class_share": 0.0}, r"max_class_share must lie above 0"),
    ],
)
def test_transforms_refuse_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        SegmentationTransforms(**options)


@pytest.mark.parametrize(("length", "processes"), [(5, 2), (4, 2), (1, 4), (7, 3)])
def test_every_image_is_judged_once_by_any_number_of_processes(length, processes):
    shares = [list(EvenSampler(range(length), processes, rank)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for i in share if i >= 0) == list(range(length))


def test_a_repeated_image_has_no_labels(root):
    data = folders(root)
    data.setup("validate")
    image, labels = data.sets["val"][~0]
    torch.testing.assert_close(image, data.sets["val"][0][0])
    assert labels.unique().tolist() == [IGNORE]


def test_scenes_of_digits_are_always_the_same_and_their_labels_fit():
    first, second = (DigitScenes(count=8, size=(48, 64), batch_size=4) for _ in range(2))
    for data in (first, second):
        data.setup("fit")
    for scenes in ("train", "val"):
        for i in range(len(first.sets[scenes])):
            image, labels = first.sets[scenes][i]
            assert torch.equal(image, second.sets[scenes][i][0])
            assert labels.max() > 0 and labels.max() <= 10
            # Ink is brighter than the ground.
            assert image[0][labels > 0].mean() > image[0][labels == 0].mean() + 0.5
    assert not torch.equal(first.sets["train"][0][0], first.sets["val"][0][0])
    assert first.sets["val"][~0][1].unique().tolist() == [IGNORE]
    images, labels = next(iter(first.train_dataloader()))
    assert (images.shape, labels.shape) == ((4, 3, 48, 64), (4, 48, 64))
