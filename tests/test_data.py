import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from small_sets import write_cifar10, write_idx, write_mnist
from torchvision import datasets

from involution.data import DATASETS, DataError, SmallImages, TensorImages, find_data_root, load
from involution.data.sampling import epoch_seed


def test_digits_are_the_same_every_time_and_balanced():
    first, second = load("digits"), load("digits")
    assert torch.equal(first.images, second.images) and torch.equal(first.test_labels, second.test_labels)
    assert first.images.shape == (1347, 1, 8, 8) and first.test_images.shape == (450, 1, 8, 8)
    assert first.images.dtype == torch.uint8 and first.images.min() == 0 and first.images.max() == 255
    assert first.test_labels.bincount().tolist() == pytest.approx([45] * 10, abs=2)
    shown = {tuple(image.flatten().tolist()) for image in first.images}
    assert sum(tuple(image.flatten().tolist()) in shown for image in first.test_images) == 0


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read(name, tmp_path):
    write_mnist(tmp_path, name)
    data = load(name, tmp_path)
    assert data.images.shape == (64, 1, 28, 28) and data.test_images.shape == (40, 1, 28, 28)
    assert data.labels.dtype == torch.int64 and data.labels[:12].tolist() == [*range(10), 0, 1]
    assert data.images[3, 0, 8, 12] >= 200 > data.images[3, 0, 20, 12]


def test_cifar10_is_read(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    data = load("cifar10", tmp_path)
    assert data.images.shape == (100, 3, 32, 32) and data.test_images.shape == (20, 3, 32, 32)
    assert data.images.is_contiguous() and data.test_labels.tolist() == [*range(10)] * 2


def test_a_truncated_file_is_named_with_the_remedy(tmp_path):
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path)
    assert str(error.value) == (
        f"{path} is truncated or damaged: it has 49,192 bytes, its header announces 50,192; "
        "delete it and run again to download the set, or copy it anew"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "its 0 bytes do not begin with the header"),
        (b"<html>404</html>", "its 16 bytes do not begin with the header"),
        (b"\0\0\x08\x03\0\0", "its header ends after 6 bytes"),
    ],
)
def test_what_is_no_idx_file_is_refused(content, words, tmp_path):
    path = write_mnist(tmp_path) / "t10k-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        load("mnist", tmp_path)
    assert str(path) in str(error.value)


def test_images_and_labels_must_be_as_many(tmp_path):
    folder = write_mnist(tmp_path)
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(39).numpy())
    with pytest.raises(DataError, match="holds 40 test images but 39 labels; delete it"):
        load("mnist", tmp_path)


def test_a_truncated_cifar10_file_is_named(tmp_path, monkeypatch):
    path = write_cifar10(tmp_path, monkeypatch) / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"data_batch_3 is truncated or damaged: its MD5 is \w{32}, not \w{32}; delete it"
    ):
        load("cifar10", tmp_path)


def test_a_missing_set_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    def fail(self):
        print("trying a mirror")
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", fail)
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path)
    assert str(error.value) == (
        f"MNIST is not in {tmp_path / 'mnist'} (MNIST/raw/train-images-idx3-ubyte and 3 more missing) and the download "
        "failed: <urlopen error no route to host>; run this once with a network, copy the set there, or name the folder "
        "that holds mnist/ with --data-root or INVOLUTION_DATA"
    )
    assert "mirror" not in capsys.readouterr().out
    with pytest.raises(DataError, match="and downloading is switched off; run this once"):
        load("mnist", tmp_path, download=False)


def test_one_missing_file_is_named(tmp_path):
    (write_mnist(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"\(MNIST/raw/t10k-labels-idx1-ubyte missing\)"):
        load("mnist", tmp_path, download=False)


def test_a_download_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_mnist(tmp_path))
    assert len(load("mnist", tmp_path).labels) == 64


def test_data_root(monkeypatch):
    monkeypatch.delenv("INVOLUTION_DATA", raising=False)
    assert find_data_root() == Path("data")
    monkeypatch.setenv("INVOLUTION_DATA", "/somewhere")
    assert find_data_root() == Path("/somewhere")
    assert find_data_root("elsewhere") == Path("elsewhere")


@pytest.mark.parametrize("scaling", ["standard", "unit", "raw"])
def test_scaling(scaling, tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    data = SmallImages("cifar10", tmp_path, batch_size=100, scaling=scaling)
    images, labels = next(iter(data.train_dataloader()))
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    if scaling == "standard":
        assert images.mean((0, 2, 3)).abs().max() < 1e-4
        assert (images.std((0, 2, 3)) - 1).abs().max() < 1e-4
    else:
        assert images.max() == (1 if scaling == "unit" else 255) and images.min() == 0


def test_batches_cover_the_set_once_in_an_order_of_seed_and_epoch():
    def order(seed, epoch):
        loader = SmallImages("digits", batch_size=100, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([images.flatten(1) for images, _ in loader])

    first = order(0, 0)
    assert first.shape == (1347, 64)
    assert torch.equal(first, order(0, 0))
    assert not torch.equal(first, order(0, 1)) and not torch.equal(first, order(1, 0))
    assert torch.allclose(first.sum(0), order(0, 1).sum(0), atol=1e-2)


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(3, [3, 3]), (4, [4, 3]), (6, [6]), (7, [7]), (8, [7]), (1, [1] * 7)]
)
def test_a_single_image_that_is_left_over_is_not_trained_on(batch_size, expected):
    """A batch norm over maps of one pixel cannot; where each image is a batch, that is what was asked for."""
    data = SmallImages("digits", batch_size=batch_size)
    images = TensorImages(torch.zeros(7, 1, 8, 8, dtype=torch.uint8), torch.arange(7), [0], [1])
    data._sets = (images, images, images)
    found = [len(labels) for _, labels in data.train_dataloader()]
    assert found == expected
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 7


def test_seed_epoch_and_process_all_count():
    seeds = [epoch_seed(seed, epoch, rank) for seed in range(4) for epoch in range(4) for rank in range(4)]
    assert len(set(seeds)) == 64
    assert all(0 <= epoch_seed(seed, 300, 7) < 2**32 for seed in (0, 2**32 - 1))


def test_loading_leaves_the_global_random_state_alone():
    data = SmallImages("digits")
    data.setup()
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for _ in loader:
            pass
    assert torch.equal(before, torch.get_rng_state())


def test_test_images_keep_their_order():
    data = SmallImages("digits", scaling="raw")
    batches = list(data.test_dataloader())
    assert torch.equal(torch.cat([images for images, _ in batches]), load("digits").test_images.float())


def test_a_share_of_the_training_images_is_the_same_of_every_class():
    whole, part = SmallImages("digits"), SmallImages("digits", train_share=0.1, seed=3)
    counts = whole.train_set.labels.bincount()
    assert torch.equal(part.train_set.labels.bincount(), (0.1 * counts).round().long())
    assert torch.equal(part.train_set.images, SmallImages("digits", train_share=0.1).train_set.images)
    assert torch.equal(part.test_set.images, whole.test_set.images)
    assert torch.equal(part.train_set.mean, whole.train_set.mean)


def test_images_set_apart_are_validated_and_not_trained_on():
    whole, part = SmallImages("digits"), SmallImages("digits", train_share=0.7, validation_share=0.3)
    counts = [images.labels.bincount() for images in (whole.train_set, part.train_set, part.validation_set)]
    # By rounding, an image of a class may be in neither.
    assert ((counts[0] - counts[1] - counts[2]).abs() <= 1).all()
    assert torch.equal(counts[2], (0.3 * counts[0]).round().long())
    seen = {tuple(image.flatten().tolist()) for image in part.train_set.images}
    assert sum(tuple(image.flatten().tolist()) in seen for image in part.validation_set.images) < 5
    images = torch.cat([images for images, _ in part.val_dataloader()])
    assert torch.equal(images, part.validation_set.__getitems__(range(len(part.validation_set)))[0])
    # The test images stay what they are, and without a share they are those of validation.
    assert torch.equal(part.test_set.images, whole.test_set.images)
    assert whole.validation_set is whole.test_set
    few = SmallImages("digits", train_share=0.2, validation_share=0.3)
    assert torch.equal(few.validation_set.images, part.validation_set.images)
    assert len(few.train_set) == pytest.approx(0.2 * len(whole.train_set), abs=5)


def test_single_images_equal_those_of_a_batch():
    images = TensorImages(torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4), torch.tensor([3, 4]), [1.0], [2.0])
    image, label = images[1]
    assert torch.equal(image, images.__getitems__([0, 1])[0][1]) and label == 4
    assert image[0, 0, 0] == 7.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": "svhn"}, "unknown data set 'svhn'; expected one of digits, mnist, fashion_mnist, cifar10"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"train_share": 0.0}, "train_share must lie above 0 and be at most 1, got 0.0"),
        (
            {"train_share": 0.8, "validation_share": 0.3},
            "validation_share must be at least 0 and leave train_share its images, got 0.3 beside 0.8",
        ),
        ({"scaling": "log"}, "scaling must be 'standard', 'unit' or 'raw', got 'log'"),
    ],
)
def test_refused_arguments(arguments, words):
    with pytest.raises(ValueError) as error:
        SmallImages(**arguments)
    assert str(error.value) == words


@pytest.mark.skipif(
    not os.environ.get("INVOLUTION_DATA"), reason="INVOLUTION_DATA names no folder with the real data sets"
)
@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_real_sets(name):
    data = load(name, download=False)
    assert len(data.images) == (50_000 if name == "cifar10" else 60_000) and len(data.test_images) == 10_000
    assert data.test_labels.bincount().min() > 800


def test_augmentation_shifts_and_mirrors():
    images = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4).expand(200, -1, -1, -1)
    labels = torch.zeros(200, dtype=torch.long)
    plain = images[0].float()
    mirrored = TensorImages(images, labels, [0.0], [1.0], flip=True).__getitems__(range(200))[0]
    kinds = {tuple(image.flatten().tolist()) for image in mirrored}
    assert kinds == {tuple(plain.flatten().tolist()), tuple(plain.flip(2).flatten().tolist())}
    shifted = TensorImages(images, labels, [0.0], [1.0], shift=1).__getitems__(range(200))[0]
    padded = torch.nn.functional.pad(plain, [1] * 4)
    expected = {tuple(padded[:, i : i + 3, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)}
    assert {tuple(image.flatten().tolist()) for image in shifted} == expected
