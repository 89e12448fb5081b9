"""What predict writes: a name for every image, and never over an image."""

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from trainings import TINY, refusal

from involution.commands.main import main
from involution.commands.output_files import name_outputs
from involution.errors import CommandError
from involution.files import read_json, write_atomically


def test_images_of_one_name_are_told_apart(tmp_path):
    files = [tmp_path / name for name in ("a/x.png", "b/x.jpg", "b/x-2.png", "c/y.png", "a/x.png")]
    out = Path("out")
    names = [target.name for (target,) in name_outputs(files, out, (".png",))]
    assert names == ["x.png", "x-2.png", "x-2-2.png", "y.png", "x.png"]
    # Every ending is looked at: a file may be called as another one's second picture.
    files = [tmp_path / "x.png", tmp_path / "x-overlay.png"]
    targets = name_outputs(files, out, (".png", "-overlay.png"))
    assert len({target for pair in targets for target in pair}) == 4


def test_an_image_is_not_written_over(tmp_path):
    image = tmp_path / "x.png"
    image.touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link", tmp_path / "sub" / ".."):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(
            CommandError, match=r"x.png is one of the files that are read and would be overwritten; choose"
        ):
            name_outputs([image], out, (".png",))
    assert name_outputs([image], tmp_path, ("-overlay.png",)) == [(tmp_path / "x-overlay.png",)]


def test_heat_maps_of_two_images_of_one_name(tmp_path, capsys):
    assert main(["fit", *TINY, f"--run={tmp_path / 'run'}", "--trainer.max_epochs=1"]) == 0
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8), 7).save(tmp_path / folder / "x.png")
    images = [str(tmp_path / folder / "x.png") for folder in "ab"]
    model = ["--model", str(tmp_path / "run" / "model"), "--heatmaps", "layer1.0.conv2"]
    assert main(["predict", *images, *model, "--out", str(tmp_path / "maps")]) == 0
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "x-2-layer1.0.conv2.png",
        "x-layer1.0.conv2.png",
    ]
    # A heat map of a heat map, into the same folder.
    first = tmp_path / "maps" / "x-layer1.0.conv2.png"
    again = tmp_path / "maps" / "x.png"
    again.write_bytes(first.read_bytes())
    before = first.read_bytes()
    assert main(["predict", str(first), str(again), *model, "--out", str(tmp_path / "maps")]) == 2
    assert "is one of the files that are read and would be overwritten" in refusal(capsys)
    assert first.read_bytes() == before
    assert main(["predict", "", *model]) == 2
    assert "an argument is empty; say what it shall be (a dot is this folder)" in refusal(capsys)
    for device, words in (
        ("meta", "unknown device 'meta'; expected auto, cpu, cuda, cuda:N or mps"),
        ("tpu", "unknown device"),
    ):
        assert main(["predict", images[0], *model, "--device", device]) == 2
        assert words in refusal(capsys)


def test_a_name_that_is_no_text(tmp_path, copies):
    """A file system takes any bytes as a name; what UTF-8 lacks of it is printed and written as an escape."""
    folder = tmp_path / "images"
    folder.mkdir()
    stream = io.BytesIO()
    Image.new("RGB", (30, 30)).save(stream, "PNG")
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write(stream.getvalue())
    flags = ["--model", "rednet26_half.imagenette", "--heatmaps", "layer3.0.conv2", "--out", str(tmp_path / "out")]
    status, said = copies.run("predict", str(folder), *flags)
    assert status == 0, said
    assert [os.fsencode(path.name) for path in (tmp_path / "out").iterdir()] == [b"caf\xe9-layer3.0.conv2.png"]
    write_atomically(tmp_path / "a.json", json.dumps({"name": "caf\udce9"}, ensure_ascii=False))
    assert read_json(tmp_path / "a.json") == {"name": "caf\udce9"}
