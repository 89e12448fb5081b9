"""Annotations in the formats of COCO and Pascal VOC that somebody made to break a reader: a sentence each, in time and memory."""

import json
import math
import os
import time

import numpy as np
import pytest
import torch
from fuzzing.operators import check_sentence
from small_coco import write_coco

from involution.commands.main import main
from involution.data import DataError
from involution.data.coco_files import read_coco
from involution.data.masks import clip_polygon, decode_mask, encode_mask, find_mask_problem

HUGE = 10**400


@pytest.fixture
def annotations(tmp_path):
    path = write_coco(tmp_path, counts=(("train", 2),)) / "annotations" / "instances_train.json"
    return path, json.loads(path.read_text())


VALUES = [
    None,
    True,
    "1",
    [],
    {},
    [1],
    {"a": 1},
    math.nan,
    math.inf,
    -math.inf,
    HUGE,
    -HUGE,
    1e300,
    "\0",
    "\ud800",
    -1,
    0,
]


@pytest.mark.parametrize("name", ["a" * 256, "a/" * 2048, "\0", ""], ids=["name", "path", "zero", "empty"])
def test_a_name_that_no_file_can_have(annotations, name):
    path, content = annotations
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="needs an integer id, a file_name that a file can have") as refused:
        read_coco(path)
    check_sentence(refused.value)


def test_a_missing_image_with_a_name_of_two_lines_is_one_sentence(annotations):
    from involution.data import CocoImages

    path, content = annotations
    content["images"][0]["file_name"] = "a\nb.png"
    path.write_text(json.dumps(content))
    data = CocoImages(
        root=path.parents[1], val_annotations="annotations/instances_train.json", val_images="images/train"
    )
    with pytest.raises(
        DataError, match=r"there is no image at .*a b.png, which the annotations name; add it there"
    ) as refused:
        data.prepare_data()
    check_sentence(refused.value)


@pytest.mark.parametrize("place", ["images", "annotations", "categories"])
def test_any_value_in_any_place_of_an_annotation_file(annotations, place):
    """It is taken or refused in a sentence; whatever is taken gives targets."""
    from involution.data.coco_images import AnnotatedImages

    path, content = annotations
    taken = 0
    for key in content[place][0]:
        for value in VALUES:
            changed = {**content, place: [{**content[place][0], key: value}, *content[place][1:]]}
            path.write_text(json.dumps(changed))
            try:
                file = read_coco(path, masks=True)
            except DataError as refused:
                check_sentence(refused)
                continue
            taken += 1
            labels = {id: i for i, id in enumerate(file.categories)}
            images = AnnotatedImages(file, path.parents[1] / "images" / "train", labels, masks=True)
            for entry in images.images:
                target = images._target(entry, file.objects.get(entry.id, ()))
                assert target["masks"].shape[1:] == (entry.height, entry.width)
    assert taken


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"[]", b"null", b'{"images": 3}', b"9" * 5000])
def test_any_file_in_the_place_of_annotations(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a.json (cannot be read as JSON|is not in COCO's format)"):
        read_coco(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="a folder, a pipe or a device"):
        read_coco(tmp_path / "pipe.json")


# Masks


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 5], "counts": value}
        for value in (
            [],
            [20, -1, 1],
            [19],
            ["20"],
            [20.0],
            [HUGE],
            [True] * 20,
            "",
            "`" * 50,
            "é",
            "\x00",
            "o" * 90,
            20,
            None,
        )
    ]
    + [{"size": value, "counts": [20]} for value in (None, 4, [4], [5, 4], ["4", "5"], [4, HUGE], {"a": 4})]
    + [[[1, 2, 3]], [[1, 2, 3, 4, 5, math.nan]], [[1, 2, 3, 4, 5, HUGE]], [3], ["abcdef"], [[]], "abc", 7, [None]],
)
def test_a_segmentation_of_the_wrong_form(segmentation):
    assert find_mask_problem(segmentation, 4, 5)


def test_what_is_encoded_is_found_right():
    generator = torch.Generator().manual_seed(0)
    for height, width in ((1, 1), (4, 5), (61, 47), (300, 400)):
        mask = torch.rand(height, width, generator=generator) < 0.3
        code = encode_mask(mask)
        assert find_mask_problem(code, height, width) == ""
        assert torch.equal(decode_mask(code, height, width).bool(), mask)
        assert "pixels, its image has" in find_mask_problem({**code, "size": [height, width + 1]}, height, width + 1)


def test_a_polygon_near_the_image_is_left_as_it_is():
    polygon = [-3.5, 2, 60.25, -8, 30, 100.5, 5, 70]
    assert list(clip_polygon(polygon, 60, 50)) == polygon


def test_a_polygon_far_beyond_the_image_fills_it_as_it_should():
    """Against the cut of exact arithmetic: half planes through the image."""
    height, width = 40, 50
    for far in (1e3, 1e8, 1e14):
        started = time.perf_counter()
        everything = decode_mask([[-far, -far, far, -far, far, far, -far, far]], height, width)
        assert everything.all()
        left = decode_mask([[-far, -far, 20, -far, 20, far, -far, far]], height, width)
        assert left[:, :19].all() and not left[:, 21:].any()
        nothing = decode_mask([[far, far, far + 10, far, far, far + 10]], height, width)
        assert nothing.shape == (height, width) and not nothing.any()
        below = decode_mask([[-far, -far, far, far, -far, far]], height, width)  # under the diagonal
        rows, columns = np.indices((height, width))
        assert below.numpy()[rows > columns + 2].all() and not below.numpy()[rows < columns - 2].any()
        assert time.perf_counter() - started < 10


def test_the_cut_changes_nothing_inside():
    """Polygons with one corner far out: as pycocotools' filling of the same corner brought nearer."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        inside = generator.uniform(0, 40, (3, 2))
        direction = generator.normal(size=2)
        direction /= np.abs(direction).max()
        # Both corners lie on the same ray from the first point; the nearer one is not cut.
        near, far = inside[0] + 39 * direction, inside[0] + 1e6 * direction
        outlines = [[*inside[0], *corner, *inside[0]] for corner in (near, far)]
        masks = [decode_mask([[float(v) for v in outline]], 40, 40) for outline in outlines]
        assert (masks[0] != masks[1]).sum() <= 40


def test_an_outline_that_covers_the_image_many_times_is_refused():
    zigzag = [value for i in range(100_000) for value in (0, i % 300, 400, (7 * i) % 300)]
    assert "polygons whose outlines of 200,000 points are longer than" in find_mask_problem([zigzag], 300, 400)
    # In parts as well.
    assert "longer than" in find_mask_problem([zigzag[i : i + 100] for i in range(0, len(zigzag), 100)], 300, 400)
    angles = np.linspace(0, 2 * np.pi, 50_000)
    circle = np.stack([200 + 90 * np.cos(angles), 150 + 90 * np.sin(angles)], 1).flatten().tolist()
    assert find_mask_problem([circle], 300, 400) == ""


def test_masks_that_together_fill_the_memory_are_refused(annotations):
    path, content = annotations
    image = {**content["images"][0], "width": 3000, "height": 3000}
    first = {**content["annotations"][0], "segmentation": {"size": [3000, 3000], "counts": [9 * 10**6]}}
    entries = [{**first, "id": i} for i in range(300)]
    path.write_text(json.dumps({**content, "images": [image, *content["images"][1:]], "annotations": entries}))
    with pytest.raises(
        DataError, match="the 300 masks of image 100 would have 2,700,000,000 pixels, more than the 536,"
    ):
        read_coco(path, masks=True)
    read_coco(path)


@pytest.mark.parametrize("masks", [False, True])
def test_objects_that_together_fill_the_memory_are_refused(annotations, masks):
    """Small ones, which take little by themselves: a detector compares every one with every place of the image."""
    path, content = annotations
    image = content["images"][0]
    size = [image["height"], image["width"]]
    first = {**content["annotations"][0], "segmentation": {"size": size, "counts": [size[0] * size[1]]}}
    entries = [{**first, "id": i} for i in range(60_000)]
    path.write_text(json.dumps({**content, "annotations": entries}))
    with pytest.raises(
        DataError, match=r"image 100 has 60,000 objects, more than the 20,000 that are .*; cut the image into"
    ):
        read_coco(path, masks=masks)
    path.write_text(json.dumps({**content, "annotations": entries[:20_000]}))
    assert len(read_coco(path, masks=masks).objects[100]) == 20_000


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", ".."])
def test_an_image_outside_its_folder_is_never_opened(annotations, tmp_path, name):
    path, content = annotations
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"image 100 lies outside the folder of the images: file_name '.*'; put it there"
    ):
        read_coco(path)
    content["images"][0]["file_name"] = "a/..b/x..png"
    path.write_text(json.dumps(content))
    assert read_coco(path).images[0].file_name == "a/..b/x..png"


@pytest.mark.parametrize("name", [None, {"a": 1}, [], "\ud800", 1.5, True])
def test_a_category_without_a_name_that_can_be_written(annotations, name):
    path, content = annotations
    content["categories"][0]["name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has a category whose name is no text: "):
        read_coco(path)


# Pascal VOC


XML = """<annotation><filename>a.jpg</filename><size><width>{width}</width><height>10</height></size>
<object><name>cat</name><bndbox><xmin>{xmin}</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"""


def voc(tmp_path, xml, *more):
    folder = tmp_path / "voc"
    folder.mkdir(exist_ok=True)
    (folder / "a.xml").write_bytes(xml)
    return main(["voc2coco", str(folder), str(tmp_path / "out.json"), *more])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": "nan"}, "needs a number in size/width, got 'nan'"),
        ({"width": "inf"}, "needs a number in size/width, got 'inf'"),
        ({"width": "1e300"}, "needs a number in size/width, got '1e300'"),
        ({"width": "0"}, "says that its image is 0 pixels wide and 10 high"),
        ({"width": "-5"}, "says that its image is -5 pixels wide"),
        ({"xmin": "nan"}, "needs a number in bndbox/xmin, got 'nan'"),
        ({"xmin": "-inf"}, "needs a number in bndbox/xmin, got '-inf'"),
        ({"xmin": "7"}, "has a box that ends before it begins: x from 7 to 5"),
        ({"xmin": "9" * 5000}, "needs a number in bndbox/xmin, got '999"),
    ],
)
def test_numbers_of_pascal_voc(tmp_path, capsys, values, words):
    xml = XML.format(**{"width": 10, "xmin": 1, **values})
    assert voc(tmp_path, xml.encode()) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out.json").exists()


def test_a_class_that_is_named_twice_and_a_folder_in_the_place_of_the_file(tmp_path, capsys):
    xml = XML.format(width=10, xmin=1).encode()
    assert voc(tmp_path, xml, "--classes", "cat,dog,cat") == 2
    assert "--classes names a class twice, so that it is open which id it has: cat, dog, cat" in capsys.readouterr().err
    (tmp_path / "out.json").mkdir()
    assert voc(tmp_path, xml) == 2
    said = f"involution voc2coco: {tmp_path / 'out.json'} cannot be used: Is a directory; check the path, its permissions and "
    assert capsys.readouterr().err == f"{said}the free space, or name another\n"


@pytest.mark.parametrize("encoding", ["klingon", "utf-7", "shift_jis", "idna", "utf-32"])
def test_encodings_of_pascal_voc(tmp_path, capsys, encoding):
    xml = f'<?xml version="1.0" encoding="{encoding}"?>' + XML.format(width=10, xmin=1)
    if voc(tmp_path, xml.encode()):
        error = capsys.readouterr().err
        assert "a.xml cannot be read as XML: " in error and error.count("\n") == 1


def test_pascal_voc_writes_over_nothing_that_it_reads(tmp_path, capsys):
    folder = tmp_path / "voc"
    folder.mkdir()
    (folder / "a.xml").write_text(XML.format(width=10, xmin=1))
    (folder / "b.xml").mkdir()
    names = tmp_path / "names.txt"
    names.write_text("a\n")
    before = (folder / "a.xml").read_bytes()
    (tmp_path / "link.json").symlink_to(folder / "a.xml")
    for out in (folder / "a.xml", names, tmp_path / "link.json"):
        assert main(["voc2coco", str(folder), str(out), "--names", str(names)]) == 2
        assert "is one of the files that are read and would be overwritten; name another" in capsys.readouterr().err
    assert (folder / "a.xml").read_bytes() == before and names.read_text() == "a\n"
    names.write_bytes(b"a\0b\n")
    assert main(["voc2coco", str(folder), str(tmp_path / "out.json"), "--names", str(names)]) == 2
    assert "names.txt cannot be read: it is no text; expected one image name a line" in capsys.readouterr().err


def test_pascal_voc_names_are_read_without_what_sets_them_apart(tmp_path, capsys):
    xml = XML.replace("a.jpg", "\n a.jpg \n").replace("cat", "\n  cat\n").format(width="\n 10 ", xmin=" 1 ")
    assert voc(tmp_path, xml.encode()) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["images"][0]["file_name"] == "a.jpg" and content["categories"] == [{"id": 1, "name": "cat"}]
    for name in ("/etc/passwd", "../a.jpg"):
        xml = XML.replace("a.jpg", name).format(width=10, xmin=1)
        assert voc(tmp_path, xml.encode()) == 2
        assert (
            f"a.xml names an image outside the folder of the images: '{name}'; correct its" in capsys.readouterr().err
        )
    names = tmp_path / "names.txt"
    names.write_text("a\na\n")
    assert voc(tmp_path, xml.encode(), "--names", str(names)) == 2
    assert "names.txt names a more than once; remove all lines of it but one" in capsys.readouterr().err
