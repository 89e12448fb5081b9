"""One picture of what a net's involutions make of an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from involution import Involution2d
from involution.commands.main import main
from involution.pictures.heatmaps import kernel_fields
from involution.pictures.layers import draw_layers, one_per_resolution


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*words):
    return main(["visualize", *map(str, words)])


def test_a_picture_of_one_layer_of_each_map_size(photograph, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(photograph) == 0
    assert capsys.readouterr().out.startswith("photo-kernels.png: ")
    with Image.open(tmp_path / "photo-kernels.png") as picture:
        assert picture.width > 1000 and picture.height > 1000


def test_the_layers_and_the_pixel_that_are_asked_for(photograph, tmp_path, capsys):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    assert run(photograph, "--layers", "layer1.0.conv2,layer3.0.conv2", "--out", first) == 0
    assert capsys.readouterr().out == f"{first}: layer1.0.conv2, layer3.0.conv2\n"
    assert run(photograph, "--layers", "layer1.0.conv2", "layer3.0.conv2", "--pixel", "0.1,0.9", "--out", second) == 0
    one, other = (np.asarray(Image.open(file).convert("RGB")) for file in (first, second))
    assert one.shape == other.shape and (one != other).any()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layers", "layer9"], "no involution is called 'layer9'; expected one of conv1.3, "),
        (["--pixel", "1,0"], "the pixel must be two shares of height and width, from 0 to below 1, got [1.0, 0.0]"),
        (["--pixel", "0.5"], "the pixel must be two shares of height and width, from 0 to below 1, got [0.5]"),
        (["--out", "picture.jpg"], "--out must end in .png, got picture.jpg"),
        (["--model", "resnet14_eighth.cifar10"], "has no involution, so it has no kernel field"),
    ],
)
def test_refusals(photograph, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert run(photograph, *words) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("*-kernels.png"))


def test_its_own_source_is_not_written_over(photograph, capsys):
    assert run(photograph, "--out", photograph) == 2
    assert "would be overwritten; choose another --out" in capsys.readouterr().err


def test_what_a_picture_shows():
    net = torch.nn.Sequential(
        Involution2d(16), torch.nn.MaxPool2d(2), Involution2d(16), Involution2d(16, kernel_size=3)
    )
    fields = kernel_fields(net, torch.randn(1, 16, 8, 6))
    assert list(one_per_resolution(fields)) == ["0", "3"]
    figure = draw_layers(torch.zeros(1, 8, 6, dtype=torch.uint8), fields, (0.99, 0))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["0, 8×6 pixels", "group 1", "2, 4×3 pixels", "group 1", "3, 4×3 pixels", "group 1"]
    # The last of eight rows and the first column, of pixels enlarged to squares of 54.
    (frame,) = figure.axes[0].patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, 7 * 54 - 0.5), 54, 54)
    kernel = figure.axes[1].images[0].get_array()
    assert kernel.shape == (7, 7, 3)
    strongest = fields["0"][0, 0, :, :, 7, 0].abs().argmax().item()
    saturated = kernel.reshape(-1, 3)[strongest]
    assert min(saturated) < 110, "the strongest weight has a colour from the end of the scale"
    with pytest.raises(ValueError, match="no layer to draw"):
        draw_layers(torch.zeros(1, 8, 6, dtype=torch.uint8), {})
