"""Shards and folders of images that somebody made to break a reader, and settings of data that none can have."""

import io
import json
import socket
import tarfile

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from trainings import pictures_flags, refusal

from involution.commands.main import main
from involution.data import DataError, ImageShards, SegmentationFolders
from involution.data.shards import expand, find_shards, read_index, read_shard
from involution.errors import InvolutionWarning


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


def test_a_file_of_zeros_that_are_not_there_is_no_image(tmp_path):
    member = tarfile.TarInfo("0.png")
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    # In GNU's old form: where it has data (nowhere), and its size.
    head[386:410], head[483:495] = b"00000000000\0" * 2, f"{2**29:011o}\0".encode()
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    path = tmp_path / "train-00000.tar"
    path.write_bytes(bytes(head) + bytes(10240))
    with tarfile.open(path) as tar:
        assert tar.next().size == 2**29
    with pytest.raises(DataError, match=r"0.png of the shard .* is a sparse file, which no image is; copy it anew"):
        list(read_shard(str(path)))


def test_a_folder_whose_name_is_a_pattern_and_an_address_that_is_none(tmp_path):
    folder = tmp_path / "sh[1]*"
    folder.mkdir()
    write_tar(folder / "train-00000.tar", [("0.png", png()), ("0.cls", b"0")])
    write_tar(tmp_path / "sh1", [])
    assert find_shards(str(folder), "train-*.tar") == [str(folder / "train-00000.tar")]
    for ask in (read_index, lambda root: find_shards(root, "train-*.tar")):
        with pytest.raises(
            DataError, match=r"foo://x.* is no folder and no address that can be read: Protocol not known"
        ):
            ask("foo://x")


def test_a_label_of_18_digits_where_the_classes_are_not_known(tmp_path, capsys):
    for part in ("train", "val"):
        write_tar(
            tmp_path / f"{part}-00000.tar", [("0.png", png()), ("0.cls", b"9" * 18), ("1.png", png()), ("1.cls", b"0")]
        )
    flags = [flag for flag in pictures_flags(tmp_path) if not flag.startswith(("--data=", "--data.batch_size"))]
    flags += ["--data.batch_size=2", "--data.train_images=2", "--data.num_workers=0", f"--run={tmp_path / 'run'}"]
    assert main(["fit", "--data=involution.data.ImageShards", *flags]) == 2
    words = (
        f"the data have the label {'9' * 18}, and the model's 2 classes the labels 0 to 1; correct the label, or set"
    )
    assert words in refusal(capsys)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ({"train": {"images": 10**15, "bytes": {}}}, {}),
        ({"train": {"images": 10**15, "bytes": {"train-00000.tar": 10240}}}, {}),
        (None, {"train_images": 10**15}),
        (None, {"train_images": 21}),
    ],
    ids=["index", "index with sizes", "argument", "few"],
)
def test_more_images_than_the_shards_can_hold_are_not_waited_for(tmp_path, content, options):
    write_tar(tmp_path / "train-00000.tar", [("0.png", png()), ("0.cls", b"0"), ("1.png", png()), ("1.cls", b"1")])
    if content:
        (tmp_path / "index.json").write_text(json.dumps(content))
    write_tar(tmp_path / "val-00000.tar", [("0.png", png()), ("0.cls", b"0")])
    module = ImageShards(str(tmp_path), batch_size=1, num_workers=0, classes=["a", "b"], **options)
    words = r"the training shards of .* have 10,240 bytes, which .* images cannot be in; correct --data.train_images, or pack"
    with pytest.raises(DataError, match=words):
        module.setup("fit")
    ImageShards(str(tmp_path), batch_size=1, classes=["a", "b"], train_images=20).setup("fit")


def test_no_images_and_no_classes_are_none(tmp_path):
    for options, words in (
        ({"train_images": 0}, "train_images must be at least 1, got 0"),
        ({"train_images": -3}, "train_images must be at least 1, got -3"),
        ({"classes": []}, "classes must name a class for every label, got none; leave it out where they are not known"),
    ):
        with pytest.raises(ValueError, match=words):
            ImageShards(str(tmp_path), **options)


class _Unreachable(MemoryFileSystem):
    """A server that no network leads to; libraries raise errors of their own kinds then."""

    protocol = "nowhere"

    def _open(self, *_, **__):
        raise RuntimeError("[Errno -2] Name or service not known")

    glob = _open


def test_an_address_that_cannot_be_reached():
    fsspec.register_implementation("nowhere", _Unreachable, clobber=True)
    root = "nowhere://user/set"
    for ask in (
        lambda: read_index(root),
        lambda: find_shards(root, "train-*.tar"),
        lambda: list(read_shard(f"{root}/train-00000.tar")),
    ):
        words = r"nowhere://user/set.* cannot be reached: .*Name or service not known; check the address, the network and your"
        with pytest.raises(DataError, match=words):
            ask()


def test_a_closed_port_and_a_file_in_the_place_of_the_folder(tmp_path):
    pytest.importorskip("aiohttp", reason="by which fsspec asks servers")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{listening.getsockname()[1]}/set"
        for ask in (lambda: read_index(root), lambda: list(read_shard(f"{root}/train-00000.tar"))):
            with pytest.raises(DataError, match=r"http://127.* cannot be reached: .*; check the address, the network"):
                ask()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is a file, no folder of shards; name the folder with --data.root"):
        read_index(str(tmp_path / "file"))


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


def test_a_class_that_is_a_link_in_a_circle(folders, tmp_path, capsys):
    circle = folders / "train" / "c"
    circle.symlink_to("c")
    assert main(["pack", str(folders), str(tmp_path / "out")]) == 2
    words = f"{circle} cannot be looked at for images: Too many levels of symbolic links; repair or remove it"
    assert words in capsys.readouterr().err and not list(tmp_path.rglob("*.tar"))


def test_an_empty_path_does_not_fill_the_folder_that_one_is_in(folders, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["pack", str(folders), ""]) == 2
    assert "an argument is empty; say what it shall be (a dot is this folder)" in capsys.readouterr().err
    assert not list((tmp_path / "here").iterdir())
    assert main(["pack", str(folders), "."]) == 0 and (tmp_path / "here" / "index.json").exists()


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


# Images that are nothing but long


def test_an_image_too_thin_to_be_enlarged(folders, tmp_path, capsys):
    """Its shorter side would be made what the net sees, and the longer one longer than the memory."""
    from involution.data import ImageFolders
    from involution.data.image_transforms import transformed

    words = r"60,000 pixels wide and 1 high, too thin to be enlarged until its shorter side has the 256 pixels"
    thin = folders / "val" / "a" / "1.png"
    Image.new("RGB", (60_000, 1)).save(thin)
    module = ImageFolders(folders, batch_size=1, num_workers=0)
    module.setup("fit")
    with pytest.raises(DataError, match=f"{thin} is {words}"):
        list(module.val_dataloader())
    assert main(["predict", str(thin), "--model", "rednet26_half.imagenette"]) == 2
    assert "1.png is 60,000 pixels wide and 1 high, too thin" in capsys.readouterr().err
    stream = io.BytesIO()
    Image.new("RGB", (1, 60_000)).save(stream, "PNG")
    for part in ("train", "val"):
        write_tar(tmp_path / f"{part}-00000.tar", [("0.png", stream.getvalue()), ("0.cls", b"0")])
    shards = ImageShards(str(tmp_path), batch_size=1, num_workers=0, train_images=1, classes=["a", "b"])
    with pytest.raises(DataError, match=r"the image .* is 1 pixels wide and 60,000 high, too thin"):
        list(shards.val_dataloader())
    image = Image.new("RGB", (1000, 1))
    assert transformed(image, module.transforms.evaluate, "a").shape == (3, 224, 224)
    assert transformed(image, None, "a") is image


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
        InvolutionWarning, match=r"the training images \(2\) are fewer than the 3 of a step .*: an epoch is a"
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
    (tmp_path / "nope").touch()
    with pytest.raises(DataError, match=r"nope is a file, no folder; name the data set's folder with --data.root"):
        ImageFolders("nope").setup("fit")
