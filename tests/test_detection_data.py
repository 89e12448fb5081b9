"""COCO's format: what is read, what is left out, what is refused; Pascal VOC; the metric against its referee."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_coco import CATEGORIES, write_coco

from involution.commands.main import main
from involution.data import CocoImages, DataError, DetectionTransforms, DigitObjects
from involution.data.coco_files import decode_mask, encode_mask, read_coco
from involution.data.coco_images import AnnotatedImages
from involution.data.images import read_image
from involution.data.sampling import PartSampler
from involution.tasks.detection import average_precision

ROOT_FILE = "annotations/instances_train.json"


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "set")


def data(root, **arguments):
    return CocoImages(root, **{"num_workers": 0, **arguments})


def edit(root, change, part="train"):
    file = root / f"annotations/instances_{part}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_training_sees_what_can_be_learnt_and_evaluation_what_is_written(root):
    module = data(root, masks=True, transforms=DetectionTransforms(flip=0.0))
    module.setup("fit")
    assert module.class_names == tuple(CATEGORIES.values()) and module.category_ids == tuple(CATEGORIES)
    image, target = module.sets["train"][0]
    # Three objects; the box of no width, the one outside and the crowd are left out.
    assert image.shape == (3, 48, 64) and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    assert target["labels"].tolist() == [0, 1, 2] and target["masks"].shape == (3, 48, 64)
    for box, mask in zip(target["boxes"], target["masks"], strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
    _, whole = module.sets["val"][0]
    assert whole["labels"].tolist() == [0, 1, 2, 0, 1, 0]
    assert whole["iscrowd"].tolist() == [0, 0, 0, 0, 0, 1]
    assert whole["area"][0].item() == pytest.approx(0.9 * 20 * 20)
    assert whole["masks"][5].sum() == 8 * 4 and whole["masks"][5, :4, :8].all()
    # The last image has no objects.
    assert module.sets["train"][5][1]["boxes"].shape == (0, 4)
    assert module.sets["train"][5][1]["masks"].shape == (0, 64, 48)
    assert len(data_set(root, keep_empty=False)) == 5


def data_set(root, **arguments):
    module = data(root, **arguments)
    module.setup("fit")
    return module.sets["train"]


def test_what_training_leaves_out_is_said(root):
    with pytest.warns(
        UserWarning, match=r"^boxes of .*_train.json are empty or outside their image, and training skips them: 2$"
    ):
        data_set(root)


def test_masks_in_all_three_codes():
    polygon = [[2.0, 1.0, 8.0, 1.0, 8.0, 5.0, 2.0, 5.0]]
    mask = decode_mask(polygon, 7, 10)
    assert mask.shape == (7, 10) and mask[1:5, 2:8].all() and mask.sum() == 24
    code = encode_mask(mask)
    assert isinstance(code["counts"], str) and torch.equal(decode_mask(code, 7, 10), mask)
    columns = mask.t().flatten()
    counts, value, length = [], 0, 0
    for pixel in columns.tolist():
        if pixel != value:
            counts, value, length = [*counts, length], pixel, 0
        length += 1
    assert torch.equal(decode_mask({"size": [7, 10], "counts": [*counts, length]}, 7, 10), mask)


def test_transforms_move_boxes_and_masks_together(root):
    transforms = DetectionTransforms(flip=0.5, vertical_flip=0.5, color_jitter=0.2, zoom_out=0.5, iou_crop=0.5)
    images = data_set(root, masks=True, transforms=transforms)
    sizes = set()
    for _ in range(8):
        for i in range(len(images)):
            image, target = images[i]
            sizes.add(tuple(image.shape))
            assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
            assert len(target["labels"]) == len(target["boxes"]) == len(target["area"])
            assert ((target["boxes"][:, 2:] - target["boxes"][:, :2]) >= 1).all()
            for box, mask in zip(target["boxes"].round().int().tolist(), target["masks"], strict=True):
                x1, y1, x2, y2 = box
                assert mask.sum() == mask[y1:y2, x1:x2].sum() > 0.6 * (x2 - x1) * (y2 - y1)
    assert len(sizes) > 4


def test_a_flip_is_a_flip(root):
    plain, flipped = (data_set(root, masks=True, transforms=DetectionTransforms(flip=p))[1] for p in (0.0, 1.0))
    assert torch.equal(flipped[0], plain[0].flip(2))
    assert torch.equal(flipped[1]["masks"], plain[1]["masks"].flip(2))
    assert torch.equal(flipped[1]["boxes"][:, 0], plain[0].shape[2] - plain[1]["boxes"][:, 2])


def test_evaluation_gives_every_image_to_one_process():
    for processes in (1, 2, 3, 7):
        shares = [list(PartSampler(range(5), num_replicas=processes, rank=rank)) for rank in range(processes)]
        assert sorted(index for share in shares for index in share) == list(range(5))
        assert [len(PartSampler(range(5), num_replicas=processes, rank=r)) for r in range(processes)] == [
            len(share) for share in shares
        ]


def remove(key):
    return lambda content: content.pop(key)


def set_in(kind, **values):
    return lambda content: content[kind][0].update(values)


def add_again(kind):
    return lambda content: content[kind].append(content[kind][0])


REFUSALS = {
    "no-images": (remove("images"), "is not in COCO's format: expected an object with a list 'images'"),
    "empty": (lambda c: c.update(images=[], annotations=[]), "lists no images; expected at least one"),
    "no-categories": (lambda c: c.update(categories=[]), "names no categories; expected at least one"),
    "category": (set_in("categories", id="3"), "has a category without an integer id and a name"),
    "twice-category": (add_again("categories"), "has two categories with the id 3; give each its own"),
    "twice-image": (add_again("images"), "has two images with the id 100; give each its own"),
    "no-size": (
        set_in("images", width=0),
        "image 100 needs an integer id, a file_name that a file can have, and width and height",
    ),
    "image-id": (set_in("annotations", image_id=5), "annotation 1 belongs to an image that is not listed: image_id 5"),
    "category-id": (set_in("annotations", category_id=4), "annotation 1 has a category that is not listed"),
    "nan": (set_in("annotations", bbox=[0, 0, float("nan"), 3]), "annotation 1 needs a bbox of four finite numbers"),
    "short": (set_in("annotations", bbox=[0, 0, 3]), "needs a bbox of four finite numbers [x, y, width, height]"),
    "area": (set_in("annotations", area=float("inf")), "has an area that is no finite number: inf"),
    "no-mask": (set_in("annotations", segmentation=[]), "annotation 1 has no segmentation, which masks need"),
    "polygon": (set_in("annotations", segmentation=[[1, 2, 3, 4]]), "has a polygon that is no list of at least three"),
    "rle-size": (
        set_in("annotations", segmentation={"size": [2, 2], "counts": [4]}),
        "has a mask of size [2, 2], its image is 48 high and 64 wide",
    ),
    "rle-counts": (
        set_in("annotations", segmentation={"size": [48, 64], "counts": [4]}),
        "has a run-length code of 4 pixels, its image has 3072",
    ),
    "rle": (set_in("annotations", segmentation={"counts": 3}), "neither polygons nor a run-length code"),
}


@pytest.mark.parametrize(("change", "words"), REFUSALS.values(), ids=REFUSALS)
def test_wrong_annotations_are_named(root, change, words):
    edit(root, change)
    with pytest.raises(DataError) as refusal:
        data(root, masks=True).setup("fit")
    assert words in str(refusal.value) and "instances_train.json" in str(refusal.value)


def test_files_that_are_no_annotations(root):
    (root / ROOT_FILE).write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_coco(root / ROOT_FILE)
    (root / ROOT_FILE).write_text("[1]")
    with pytest.raises(DataError, match="is not in COCO's format"):
        read_coco(root / ROOT_FILE)
    with pytest.raises(DataError, match="there are no annotations at"):
        data(root, train_annotations="none.json").setup("fit")


def test_parts_with_other_categories_are_refused(root):
    edit(root, lambda content: content["categories"][0].update(name="disc"), "val")
    with pytest.raises(DataError, match=r"must have the same categories, differing in \(3, 'disc'\), \(3, 'square'\)"):
        data(root).setup("fit")


def test_missing_damaged_and_resized_images_are_found_before_training(root):
    module = data(root)
    module.prepare_data()
    image = root / "images/train/train2.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train2.png cannot be read as an image"):
        data(root).prepare_data()
    data(root, verify=False).prepare_data()
    with pytest.raises(DataError, match=r"train2.png cannot be read as an image"):
        read_image(image)
    Image.new("RGB", (9, 5)).save(image)
    with pytest.raises(DataError, match=r"train2.png is 9 pixels wide and 5 high, its annotation says 80 and 56"):
        data(root, verify=False).prepare_data()
    image.unlink()
    with pytest.raises(
        DataError, match=r"there is no image at .*train2.png, which the annotations name; add it there$"
    ):
        data(root, verify=False).prepare_data()


@pytest.mark.parametrize(("before", "folder"), [("images/train/", "."), ("train/", "images")])
def test_names_of_images_that_begin_at_another_folder(root, before, folder):
    edit(
        root,
        lambda content: [image.update(file_name=before + image["file_name"]) for image in content["images"]],
        "train",
    )
    with pytest.raises(DataError, match=r"no image at .*; it lies in .*: give --data.train_images (.*)$") as refused:
        data(root).prepare_data()
    assert str(refused.value).endswith(f"it lies in {root / folder}: give --data.train_images {folder}")
    module = data(root, train_images=folder)
    module.prepare_data()
    module.setup("fit")
    assert len(module.sets["train"][0][0]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        CocoImages("root", **arguments)
    with pytest.raises(ValueError, match="iou_crop must be a probability from 0 to 1, got 2"):
        DetectionTransforms(iou_crop=2)


# The metric


def detections(target, generator, masks):
    """Return what a mediocre detector might find: shifted objects, twice or not at all, and others."""
    boxes, labels, scores, found_masks = [], [], [], []
    height, width = target["masks"].shape[1:]
    for i in range(len(target["boxes"])):
        for _ in range(int(generator.integers(0, 3))):
            shift = torch.from_numpy(generator.normal(0, 1.5, 4)).float()
            box = (target["boxes"][i] + shift).clamp_min(0)
            boxes.append(torch.cat([box[:2].minimum(box[2:]), box[:2].maximum(box[2:]) + 1]))
            labels.append(int(target["labels"][i]) if generator.random() < 0.8 else int(generator.integers(0, 3)))
            scores.append(float(generator.random()))
            found_masks.append(target["masks"][i].roll(int(generator.integers(-2, 3)), 1).bool())
    found = {
        "boxes": torch.stack(boxes) if boxes else torch.zeros(0, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores),
    }
    if masks:
        found["masks"] = torch.stack(found_masks) if boxes else torch.zeros(0, height, width, dtype=torch.bool)
    return found


@pytest.mark.parametrize("masks", [False, True])
def test_average_precision_is_pycocotools(tmp_path, masks, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="the referee is pycocotools")
    evaluation = pytest.importorskip("pycocotools.cocoeval", reason="the referee is pycocotools")
    root = write_coco(tmp_path, (("train", 30),))
    file = read_coco(root / ROOT_FILE)
    images = AnnotatedImages(file, root / "images/train", {c: i for i, c in enumerate(CATEGORIES)}, masks=True)
    metric, generator, results = average_precision(masks), np.random.default_rng(1), []
    for i in range(len(images)):
        _, target = images[i]
        found = detections(target, generator, masks)
        metric.update([found], [{**target, "masks": target["masks"].bool()} if masks else target])
        for j in range(len(found["boxes"])):
            x1, y1, x2, y2 = found["boxes"][j].tolist()
            result = {
                "image_id": int(target["image_id"]),
                "category_id": list(CATEGORIES)[found["labels"][j]],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": found["scores"][j].item(),
            }
            results.append({**result, "segmentation": encode_mask(found["masks"][j])} if masks else result)
    values = metric.compute()
    truth = coco.COCO(str(root / ROOT_FILE))
    for kind, prefix in (("bbox", "bbox_" if masks else ""), *([("segm", "segm_")] if masks else [])):
        # Results with a segmentation would take their area from it, also for boxes.
        own = results if kind == "segm" else [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
        referee = evaluation.COCOeval(truth, truth.loadRes(own), kind)
        referee.evaluate()
        referee.accumulate()
        referee.summarize()
        names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        ours = [values[f"{prefix}{name}"].item() for name in names]
        assert ours == pytest.approx(referee.stats[:6].tolist(), abs=1e-6)
        assert values[f"{prefix}mar_100"].item() == pytest.approx(referee.stats[8], abs=1e-6)
        assert 0.05 < ours[0] < 0.9


# Pascal VOC

XML = """<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48</height></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>21</ymax></bndbox></object>
<object><name>ant</name><difficult>1</difficult>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"""


def test_pascal_voc_becomes_coco(tmp_path, capsys):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.xml").write_text(XML.format(name=name))
    (tmp_path / "train.txt").write_text("a\nc 1\n\n")
    out = tmp_path / "out" / "train.json"
    assert main(["voc2coco", str(tmp_path), str(out), "--names", str(tmp_path / "train.txt")]) == 0
    assert "2 images with 4 boxes of 2 classes" in capsys.readouterr().out
    file = read_coco(out)
    assert [image.file_name for image in file.images] == ["a.jpg", "c.jpg"]
    assert file.categories == {1: "ant", 2: "cat"}
    cat, ant = file.objects[1]
    assert cat["bbox"] == [0, 1, 10, 20] and cat["area"] == 200 and cat["category_id"] == 2
    assert (cat["iscrowd"], ant["iscrowd"]) == (0, 1)
    assert main(["voc2coco", str(tmp_path), str(out), "--classes", "cat,ant", "--keep-difficult"]) == 0
    assert read_coco(out).categories == {1: "cat", 2: "ant"} and len(read_coco(out).images) == 3
    assert not any(entry["iscrowd"] for entry in read_coco(out).objects[1])


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda f: (f / "a.xml").write_text("<x"), [], "a.xml cannot be read as XML"),
        (lambda f: (f / "a.xml").write_text("<x/>"), [], "a.xml needs a number in size/width, got None"),
        (lambda f: None, ["--classes", "cat"], "has classes that --classes does not name: ant"),
        (lambda f: (f / "a.xml").unlink(), [], "there are no XML files in"),
        (lambda f: (f / "n.txt").write_text("zebra"), ["--names", "{f}/n.txt"], "zebra.xml"),
        (lambda f: None, ["--names", "{f}/none.txt"], "none.txt cannot be read"),
    ],
)
def test_wrong_pascal_voc_is_refused(tmp_path, capsys, change, arguments, words):
    (tmp_path / "a.xml").write_text(XML.format(name="a"))
    change(tmp_path)
    arguments = [argument.format(f=tmp_path) for argument in arguments]
    assert main(["voc2coco", str(tmp_path), str(tmp_path / "out.json"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_scenes_of_digits_to_detect():
    first, second = (DigitObjects(count=8, size=(64, 96), batch_size=3) for _ in range(2))
    for data_module in (first, second):
        data_module.setup("fit")
    counts = []
    for part in ("train", "val"):
        for (image, target), (again, _) in zip(first.sets[part], second.sets[part], strict=False):
            assert torch.equal(image, again)
            assert image.shape == (3, 64, 96)
            assert image.min() >= 0 and image.max() <= 1
            counts.append(len(target["labels"]))
            assert target["masks"].shape == (counts[-1], 64, 96)
            assert (target["masks"].sum(0) <= 1).all(), "every pixel belongs to one digit"
            for mask, box, area in zip(target["masks"], target["boxes"], target["area"], strict=True):
                x, y, right, bottom = box.int().tolist()
                assert mask[y:bottom, x:right].sum() == mask.sum() == area
                assert mask[y].any() and mask[bottom - 1].any() and mask[:, x].any() and mask[:, right - 1].any()
                assert image[0][mask.bool()].min() > 0.4
    assert max(counts) > 1
    assert not torch.equal(first.sets["train"][0][0], first.sets["val"][0][0])
    images, targets = next(iter(first.train_dataloader()))
    assert len(images) == len(targets) == 3
    assert len(first.train_dataloader()) == 2
    assert [t["image_id"].item() for _, batch in first.val_dataloader() for t in batch] == [0, 1]
