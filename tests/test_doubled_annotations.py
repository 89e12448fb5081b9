"""Annotations that say a thing twice: images, categories and files of Pascal VOC; and names with spaces."""

import json
import warnings

import pytest

from involution.commands.main import main
from involution.data import DataError
from involution.data.coco_files import read_coco
from involution.errors import InvolutionWarning

XML = """<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48</height></size><object><name>ant</name>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>21</ymax></bndbox></object></annotation>"""


def coco(tmp_path, files=("a.jpg", "b.jpg"), names=("cell", "cell"), used=(0, 1)):
    """Write annotations of two images and two categories, an object of each category in ``used``."""
    content = {
        "images": [{"id": i, "file_name": name, "width": 9, "height": 9} for i, name in enumerate(files, 5)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": 5, "category_id": i, "bbox": [1, 1, 3, 3]} for i in used],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("second", ["a.jpg", "./a.jpg"])
def test_a_file_that_is_listed_as_two_images_is_refused(tmp_path, second):
    path = coco(tmp_path, ("a.jpg", second), ("cell", "plate"))
    with pytest.raises(DataError, match=rf"{path} lists the file '{second}' as two images, 5 and 6; give all objects"):
        read_coco(path)


def test_two_categories_of_a_name_are_refused_where_both_have_objects(tmp_path):
    path = coco(tmp_path)
    with pytest.raises(DataError, match=rf"{path} has two categories of the name 'cell', 0 and 1, and objects of both"):
        read_coco(path)


def test_two_categories_of_a_name_are_said_where_one_has_no_objects(tmp_path):
    """As in exports whose first category is the name of the project."""
    path = coco(tmp_path, used=(1,))
    with pytest.warns(
        InvolutionWarning, match=r"two categories of the name 'cell', 0 and 1: they are two classes; rem"
    ):
        assert read_coco(path).categories == {0: "cell", 1: "cell"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_coco(coco(tmp_path, names=("cell", "plate")))


def voc(tmp_path, *names, lines=None):
    """Bring the files of these names, or of those that ``lines`` list, into COCO's format; return the status."""
    for name in names:
        (tmp_path / f"{name}.xml").write_text(XML.format(name=name))
    flags = []
    if lines is not None:
        (tmp_path / "list.txt").write_text("\n".join(lines))
        flags = ["--names", str(tmp_path / "list.txt")]
    return main(["voc2coco", str(tmp_path), str(tmp_path / "out.json"), *flags])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["my photo 1", "cat  -1", "my photo"], ["my photo 1.jpg", "cat.jpg", "my photo.jpg"]),
        (["my photo 0"], ["my photo.jpg"]),
        (["my photo 1 1", "cat"], ["my photo 1.jpg", "cat.jpg"]),
    ],
)
def test_names_of_images_may_have_spaces(tmp_path, lines, expected):
    assert voc(tmp_path, "my photo 1", "my photo", "cat", lines=lines) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in content["images"]] == expected


def test_an_image_that_a_list_names_with_and_without_its_column_is_refused(tmp_path, capsys):
    assert voc(tmp_path, "cat", lines=["cat 1", "cat -1"]) == 2
    assert "list.txt names cat more than once; remove all lines of it but one" in capsys.readouterr().err


def test_two_files_that_name_one_image_are_refused(tmp_path, capsys):
    (tmp_path / "copy.xml").write_text(XML.format(name="a"))
    assert voc(tmp_path, "a") == 2
    words = (
        f"{tmp_path}/a.xml and {tmp_path}/copy.xml both name the image a.jpg; correct the filename of one, or remove it"
    )
    assert words in capsys.readouterr().err and not (tmp_path / "out.json").exists()
