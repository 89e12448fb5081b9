"""What lies in folders of images and is not read: hidden folders are no classes, and other endings are said."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trainings import write_pictures

from involution.commands.main import main
from involution.data import DataError, ImageFolders, SegmentationFolders
from involution.data.image_folders import FolderImages
from involution.data.images import find_images, image_endings, read_image
from involution.data.shards import pack, read_shard
from involution.errors import InvolutionWarning


def write(path, size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX"])
def test_a_hidden_folder_is_no_class(tmp_path, name):
    root = write_pictures(tmp_path / "photos")
    for part in ("train", "val"):
        write(root / part / name / "0.png")
        write(root / part / "dark" / name / "sub" / "0.png")
    data = ImageFolders(root, num_workers=0)
    assert data.class_names == ("dark", "light")
    with pytest.warns(InvolutionWarning, match="hidden") as said:
        data.setup("fit")
    words = [str(warning.message) for warning in said]
    assert len(words) == 2, "one sentence a part"
    assert words[0].startswith(f"hidden images in {root / 'train'} are passed over (2), such as {root / 'train'}/")
    assert len(data.sets["train"]) == 24 and len(data.sets["val"]) == 8


def test_nothing_is_said_of_a_hidden_folder_without_images(tmp_path):
    root = write_pictures(tmp_path / "photos")
    for folder in (root / "train", root / "train" / "dark"):
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text("")
        (folder / ".DS_Store").write_bytes(b"")
        (folder / "Thumbs.db").write_bytes(b"")
        (folder / "0.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(FolderImages(root / "train", None)) == 24


def test_hidden_folders_alone_are_no_classes(tmp_path):
    write(tmp_path / "train" / ".thumbnails" / "0.png")
    with pytest.raises(
        DataError, match=r"holds no classes of images .all its folders are hidden.; expected one folder"
    ):
        ImageFolders(tmp_path).setup("fit")


def test_what_a_mac_leaves_beside_an_image_is_passed_over(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"no picture")
    with pytest.warns(
        InvolutionWarning, match=rf"hidden images in {tmp_path} are passed over \(1\), such as {tmp_path}/._a"
    ):
        assert find_images(tmp_path) == [tmp_path / "a.png"]
    # A folder that is named itself may be called as it likes.
    write(tmp_path / ".cache" / "b.png")
    assert find_images(tmp_path / ".cache") == [tmp_path / ".cache" / "b.png"]


def test_every_format_that_is_read_is_found(tmp_path):
    endings = [
        f".{name}"
        for name in ["avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pbm", "png", "tif", "webp"]
    ]
    assert not {*endings} - {*image_endings()}
    for ending in endings:
        format = {".mpo": "MPO", ".pbm": "PPM"}.get(ending)
        Image.new("1" if ending == ".pbm" else "RGB", (20, 20)).save(tmp_path / f"{ending[1:]}{ending}", format=format)
    found = find_images(tmp_path)
    assert [path.suffix for path in found] == endings
    assert all(read_image(path).size == (20, 20) for path in found)
    # What is found is packed, and so it is looked for in shards.
    packed = pack([(str(path), 1) for path in found], tmp_path, "train", 100, None)
    assert len(list(read_shard(str(tmp_path / packed.shards[0])))) == len(found)


def test_files_of_other_endings_are_said_once(tmp_path, capsys):
    root = write_pictures(tmp_path / "photos")
    for label in ("dark", "light"):
        for name in ("1.heic", "2.HEIC", "film.mov", "list.txt"):
            (root / "train" / label / name).write_bytes(b"")
    expected = (
        f"files in {root / 'train'} are left out, for they do not end as images that are read do: .heic (4), .mov (2); "
        "where they are images, save them as .jpg or .png"
    )
    with pytest.warns(InvolutionWarning) as said:
        FolderImages(root / "train", None)
    assert [str(warning.message) for warning in said] == [expected]
    with pytest.warns(InvolutionWarning, match=re.escape(expected)):
        assert main(["predict", str(root / "train"), "--model", "rednet26_half.imagenette"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 24


def test_segmentation_looks_for_the_same_files(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for name in ("a.gif", "b.jp2", "c.heic"):
        image = tmp_path / "images" / "train" / name
        (write(image) if name != "c.heic" else image).touch()
        labels = tmp_path / "labels" / "train" / f"{Path(name).stem}.png"
        labels.parent.mkdir(parents=True, exist_ok=True)
        if name != "c.heic":
            Image.new("L", (20, 20), 1).save(labels)
    data = SegmentationFolders(tmp_path, classes="classes.txt")
    with pytest.warns(InvolutionWarning, match=r"files in .*images/train are left out, .*: .heic \(1\); where"):
        assert [image.name for image, _ in data.pairs("train")] == ["a.gif", "b.jp2"]
