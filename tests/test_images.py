"""Image files are found and opened in one place, which names what it cannot read and clips nothing."""

import io
import os
import socket
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image

from involution.data import DataError, images
from involution.data.image_folders import FolderImages, list_images
from involution.data.images import decode_image, find_images, read_image, read_size, write_png
from involution.errors import InvolutionWarning


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
    with Image.open(tmp_path / "copy.jpg") as image:
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


def test_a_truncated_file_is_found_where_all_of_it_is_read(file):
    file.write_bytes(file.read_bytes()[:-20])
    assert read_size(file) == (5, 4)
    for read in (lambda: read_size(file, verify=True), lambda: read_image(file)):
        with pytest.raises(DataError, match=r"a.png cannot be read as an image"):
            read()


def test_pixels_whose_range_is_not_known_are_found_where_all_of_a_file_is_read(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.float32)).save(tmp_path / "a.tiff")
    assert read_size(tmp_path / "a.tiff") == (5, 4)
    with pytest.raises(DataError, match=r"a.tiff are floating-point numbers, whose range is not known"):
        read_size(tmp_path / "a.tiff", verify=True)


def test_what_a_decoder_raises_is_a_sentence_whatever_it_is(file, monkeypatch):
    for error in (
        IndexError("list index"),
        ZeroDivisionError(),
        MemoryError(),
        KeyError("x"),
        NotImplementedError("y"),
    ):

        def load(self, error=error):
            raise error

        monkeypatch.setattr(Image.Image, "load", load)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
        with pytest.raises(DataError, match=r"a.png cannot be read as an image: .+; repair or remove it"):
            read_image(file)


@pytest.mark.parametrize("read", [read_image, read_size, decode_image])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, read):
    Image.new("1", (2000, 1000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_999_999)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(
            DataError, match=r"bomb.png .* its 2,000 × 1,000 pixels are more than the 1,999,999 that are"
        ):
            read(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999_999)
    with pytest.raises(DataError, match=r"bomb.png cannot be read .*2000000 pixels"):
        read(tmp_path / "bomb.png")


def test_a_format_that_another_program_draws_is_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="cannot be read as an image: cannot identify"):
        read_image(tmp_path / "a.png")


# Depths


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, ending):
    values = np.array([[0, 255, 256, 4095], [32768, 40000, 65279, 65535]], np.uint16)
    path = tmp_path / f"a.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    for mode, channels in (("L", ()), ("RGB", (3,))):
        pixels = np.asarray(read_image(path, mode))
        assert pixels.shape == (2, 4, *channels)
        assert np.array_equal(pixels.reshape(2, 4, -1)[..., 0], values >> 8)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0.0, 0.5], [1.0, 300.0]], np.float32), "are floating-point numbers, whose range is not known"),
        (np.array([[0, 70000], [1, 2]], np.int32), "are whole numbers of 32 bits, whose range is not known"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, values, words):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"the pixels of .*a.tif {words}; scale and save them with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")
    assert read_size(tmp_path / "a.tif") == (2, 2)


# Orientation


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_and_its_size_known_from_its_head(tmp_path, ending, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255  # the upper left corner
    image = Image.fromarray(upright)
    inverse = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    stored = image.transpose(images._UPRIGHT[inverse[orientation]]) if orientation > 1 else image
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{ending}"
    stored.convert("RGB").save(path, exif=exif)
    read = np.asarray(read_image(path, "L")).astype(int)
    assert read.shape == (16, 32) and read_size(path) == read_size(path, verify=True) == (32, 16)
    assert read[:8, :8].min() > 200 and read[8:].max() < 60 and read[:, 8:].max() < 60


def test_broken_exif_leaves_the_image_as_it_is(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").size == (8, 4)


# Frames


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_of_several_frames_the_first_is_read_and_said(tmp_path, ending, monkeypatch):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "black")]
    path = tmp_path / f"a.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    monkeypatch.setattr(images, "_told", False)
    with pytest.warns(InvolutionWarning, match=rf"a.{ending} has several frames, of which the first is read"):
        assert np.asarray(read_image(path)).min() > 200
    with warnings.catch_warnings():
        # Once a process.
        warnings.simplefilter("error")
        read_image(path)


# What is no file


@pytest.fixture
def crowd(tmp_path, file):
    """Return a folder of images and of what is only named like them."""
    folder = tmp_path / "folder"
    (folder / "sub.d").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "sub.d/c.png"):
        (folder / name).write_bytes(file.read_bytes())
    (folder / "notes.txt").write_text("")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "broken.png").symlink_to(folder / "nowhere")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "linked.png").symlink_to(file)
    (folder / "sub.d" / "up").symlink_to(folder)
    return folder


def test_what_is_named_like_an_image_and_is_none_is_passed_over(crowd):
    with pytest.warns(InvolutionWarning) as said:
        found = find_images(crowd)
    assert [str(path.relative_to(crowd)) for path in found] == ["a.JPG", "b.png", "linked.png", "sub.d/c.png"]
    words = sorted(str(warning.message) for warning in said)
    expected = ["broken.png", "circle.png", "folder.png", "pipe.png"]
    assert words == [f"{crowd / name} is passed over: it is no file" for name in expected]
    assert find_images(crowd / "missing") == []


def test_the_first_few_that_are_passed_over_are_named(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.png").mkdir()
    with pytest.warns(InvolutionWarning) as said:
        assert find_images(tmp_path) == []
    words = [str(warning.message) for warning in said]
    assert len(words) == 6 and all(line.endswith(".png is passed over: it is no file") for line in words[:5])
    assert words[5] == f"25 more in {tmp_path} are passed over: they are no files"


def test_every_lister_passes_them_over(crowd, tmp_path):
    with pytest.warns(InvolutionWarning):
        assert len(list_images([crowd])) == 4
    with pytest.warns(InvolutionWarning):
        samples = FolderImages(tmp_path, None).samples
    assert len(samples) == 4 and {label for _, label in samples} == {0}


def test_what_is_named_itself_is_refused(crowd):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(crowd / "socket.png"))
    (crowd / "null.png").symlink_to("/dev/null")
    kinds = {"pipe": "a pipe", "socket": "a socket", "null": "a device", "folder": "a folder"}
    for name, kind in kinds.items():
        with pytest.raises(
            DataError, match=rf"{name}.png cannot be read as an image: it is {kind}; repair or remove it"
        ):
            read_image(crowd / f"{name}.png")
    for name in ("pipe", "socket", "null"):
        with pytest.raises(DataError, match=rf"{name}.png is {kinds[name]}, no image and no folder of images; name a"):
            list_images([crowd / f"{name}.png"])
    with pytest.raises(DataError, match=r"there is no image at .*broken.png"):
        read_image(crowd / "broken.png")
    broken = rf"there is no image or folder at .*broken.png: No such file or directory \(a link to {crowd}/nowhere\)"
    with pytest.raises(DataError, match=broken):
        list_images([crowd / "broken.png"])
    for name in ("circle.png", "missing", "notes.txt/a.png"):
        with pytest.raises(DataError, match=rf"there is no image or folder at .*{name}: "):
            list_images([crowd / name])


def test_of_a_damaged_tiff_the_refusal_alone_is_heard(tmp_path, capfd):
    """libtiff prints by itself, to where errors go."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    refused = 0
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        Image.fromarray(pixels).save(path, compression=compression)
        content = path.read_bytes()
        for at in (20, 400, len(content) // 2):
            path.write_bytes(content[:at] + bytes(64) + content[at + 64 :])
            try:
                read_image(path)
            except DataError as error:
                refused += str(error).startswith(f"{path} cannot be read as an image: ")
    assert refused >= 4 and capfd.readouterr().err == ""


def test_an_empty_path_is_not_the_folder_that_one_is_in(monkeypatch, crowd):
    monkeypatch.chdir(crowd)
    with pytest.raises(DataError, match="the path of an image is empty; name a file or a folder"):
        list_images([""])
