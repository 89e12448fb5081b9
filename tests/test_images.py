"""Image files are opened in one place, which names what it cannot read."""

import io

import numpy as np
import pytest
from PIL import Image

from involution.data import DataError
from involution.data.images import open_image, read_image, read_size, write_png


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(path)
    return path


def test_colour_and_grey(file):
    colour = read_image(file)
    assert colour.mode == "RGB" and np.array_equal(np.asarray(colour), np.arange(60).reshape(4, 5, 3))
    assert read_image(str(file), "L").mode == "L" and read_size(file) == (5, 4)
    assert read_image(io.BytesIO(file.read_bytes())).tobytes() == colour.tobytes()


def test_writing(tmp_path, file):
    # The ending does not decide the format.
    write_png(read_image(file), tmp_path / "copy.jpg")
    with open_image(tmp_path / "copy.jpg") as image:
        assert image.format == "PNG"
    assert read_image(tmp_path / "copy.jpg").tobytes() == read_image(file).tobytes()


def test_refusals_name_the_file(tmp_path, file):
    with pytest.raises(DataError, match=r"^there is no image at .*none.png$"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text.png cannot be read as an image: .*; repair or remove it$"):
        read_size(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"^the image 7 cannot be read: cannot identify.*; repair or remove it$"):
        read_image(io.BytesIO(b"x"), name="the image 7", expected=None)
    with pytest.raises(DataError, match=r"^already said$"), open_image(file):
        raise DataError("already said")


def test_a_truncated_file_is_found_where_all_of_it_is_read(file):
    file.write_bytes(file.read_bytes()[:-20])
    assert read_size(file) == (5, 4)
    for read in (lambda: read_size(file, verify=True), lambda: read_image(file)):
        with pytest.raises(DataError, match=r"a.png cannot be read as an image"):
            read()
