"""Annotations, shards and label images that somebody made to break a reader: a sentence each, in time and memory."""

import io
import json
import math
import os
import tarfile
import time

import numpy as np
import pytest
import torch
from fuzzing.operators import check_sentence
from PIL import Image
from small_coco import write_coco

from involution.commands.main import main
from involution.data import DataError, ImageShards, SegmentationFolders
from involution.data.coco_files import read_coco
from involution.data.masks import clip_polygon, decode_mask, encode_mask, find_mask_problem
from involution.data.shards import expand, read_index, read_shard
from involution.errors import InvolutionWarning

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
    assert "covers the image many times over" in find_mask_problem([zigzag], 300, 400)
    angles = np.linspace(0, 2 * np.pi, 50_000)
    circle = np.stack([200 + 90 * np.cos(angles), 150 + 90 * np.sin(angles)], 1).flatten().tolist()
    assert find_mask_problem([circle], 300, 400) == ""


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
    assert capsys.readouterr().err == f"involution voc2coco: [Errno 21] Is a directory: '{tmp_path / 'out.json'}'\n"


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


# Shards


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def png(value=0):
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), (value,) * 3).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("label", [b"9" * 5000, b"-1", b"1.5", b"", b"\xb2", b"one", b"1" * 19])
def test_labels_of_shards(tmp_path, label):
    shard = write_tar(tmp_path / "train-00000.tar", [("0.png", png()), ("0.cls", label)])
    with pytest.raises(DataError, match=r"0.cls of the shard .* holds no label: expected a number, got b") as caught:
        list(read_shard(shard))
    assert len(str(caught.value)) < 400


def test_an_archive_of_zeros_is_not_waited_for(tmp_path):
    (tmp_path / "train-00000.tar").write_bytes(bytes(10240))
    (tmp_path / "index.json").write_text(json.dumps({"train": {"images": 8, "bytes": {}}, "classes": ["a", "b"]}))
    with pytest.raises(DataError, match=r"train-00000.tar holds no files; copy it anew or remove it"):
        list(read_shard(str(tmp_path / "train-00000.tar")))
    module = ImageShards(str(tmp_path), batch_size=2, num_workers=0)
    with pytest.raises(DataError, match="holds no files"):
        next(iter(module.train_dataloader()))


def test_a_sparse_file_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "train-00000.tar"
    member = tarfile.TarInfo("0.png")
    member.size = 2**40
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240 - 512))
    with pytest.raises(DataError, match=r"0.png of the shard .* would have 1,099,511,627,776 bytes|is truncated"):
        list(read_shard(str(path)))


def test_a_label_beyond_the_classes(tmp_path):
    write_tar(tmp_path / "train-00000.tar", [("0.png", png()), ("0.cls", b"2"), ("1.png", png()), ("1.cls", b"0")])
    module = ImageShards(str(tmp_path), batch_size=1, num_workers=0, train_images=2, classes=["a", "b"])
    with pytest.raises(DataError, match=r"the label of the image .* is 2, but there are 2 classes; correct it"):
        list(module.train_dataloader())


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        '"x"',
        '{"train": 3}',
        '{"train": {"images": "many", "bytes": {}}}',
        '{"train": {"images": 3, "bytes": {"a.tar": "x"}}}',
        '{"classes": []}',
        '{"classes": [1]}',
        "{",
        "[" * 100_000,
    ],
)
def test_an_index_of_another_shape(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(DataError, match=r"index.json is (damaged|none that involution pack wrote): .*; copy it anew"):
        read_index(str(tmp_path))


def test_a_range_of_names_without_end():
    with pytest.raises(DataError, match="has more than 1,000,000 names"):
        expand("train-{0..99999999999}.tar")
    assert len(expand("train-{000..999}.tar")) == 1000


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "images"
    for part in ("train", "val"):
        for label in ("a", "b"):
            (root / part / label).mkdir(parents=True)
            (root / part / label / "1.png").write_bytes(png())
    return root


@pytest.mark.parametrize("content", [b"", b"root:x:0:0", b"\x89PNG\r\n\x1a\n"])
def test_only_images_are_packed(folders, tmp_path, capsys, content):
    (folders / "train" / "a" / "2.png").write_bytes(content)
    assert main(["pack", str(folders), str(tmp_path / "out")]) == 2
    assert "2.png cannot be read as an image" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))
    (folders / "train" / "a" / "2.png").unlink()
    (folders / "train" / "a" / "2.png").symlink_to("/etc/passwd")
    assert main(["pack", str(folders), str(tmp_path / "out")]) == 2


def test_nothing_foreign_is_packed_over(folders, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    foreign = out / "val-00000.tar"
    foreign.write_bytes(b"precious")
    assert main(["pack", str(folders), str(out)]) == 2
    assert (
        f"{out} already holds shards (val-00000.tar); delete them or choose another folder" in capsys.readouterr().err
    )
    assert foreign.read_bytes() == b"precious" and len(list(out.iterdir())) == 1


# Settings of the data


def test_label_values_are_looked_at_before_the_first_step(tmp_path):
    for kind, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("labels", np.full((8, 8), 2, np.uint8))):
        for part in ("train", "val"):
            (tmp_path / kind / part).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / kind / part / "1.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    options = {"classes": "classes.txt", "batch_size": 1, "num_workers": 0}
    with pytest.raises(DataError, match=r"1.png holds the value 2 in 64 of its 64 pixels"):
        SegmentationFolders(tmp_path, **options).prepare_data()
    SegmentationFolders(tmp_path, verify=False, **options).prepare_data()


def test_a_batch_beyond_the_set_is_said(folders):
    from involution.data import ImageFolders

    module = ImageFolders(folders, batch_size=3, num_workers=0)
    module.setup("fit")
    with pytest.warns(
        InvolutionWarning, match="the 2 training images are fewer than the 3 of a step .*: an epoch is a"
    ):
        assert len(module.train_dataloader()) == 1
    module = ImageFolders(folders, batch_size=3, num_workers=0, drop_last=True)
    module.setup("fit")
    with pytest.raises(DataError, match=r"what does not fill a batch is left out; lower --data.batch_size"):
        module.train_dataloader()


def test_a_folder_that_is_nowhere_is_named_as_it_was_typed(monkeypatch, tmp_path):
    from involution.data import ImageFolders

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INVOLUTION_DATA", "sets")
    with pytest.raises(DataError, match=r"there is no folder nope or sets/nope; name the data set's with --data.root"):
        ImageFolders("nope").setup("fit")
