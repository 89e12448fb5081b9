"""Tar shards: written, split among processes and workers, resumed, and refused where they are damaged."""

import json
import shutil
import tarfile
from collections import Counter

import pytest
import torch
from PIL import Image
from trainings import checkpoint, weights

from involution.commands.main import main
from involution.data import DataError, ImageShards, ImageTransforms
from involution.data.shards import expand, find_shards, read_shard

TRAIN, VAL, PER_SHARD = 44, 10, 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images of one colour each, which says which image it is; two classes."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", TRAIN), ("val", VAL)):
        for i in range(count):
            place = root / part / ("dark", "light")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (4 * i, 0, 128 * (i % 2))).save(place / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def shards(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "packed"
    assert main(["pack", str(folders), str(out), "--images-per-shard", str(PER_SHARD)]) == 0
    return out


def plain(size=8):
    """Transforms that keep the colour."""
    return ImageTransforms(size, mean=(0, 0, 0), std=(1 / 255,) * 3, min_scale=1.0, flip=0.0)


def module(root, *, rank=0, world_size=1, epoch=0, **options):
    options = {"batch_size": 4, "num_workers": 0, "buffer": 6, "transforms": plain(), **options}
    data = ImageShards(str(root), **options)
    # What Lightning's trainer says of a process.
    data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": world_size, "current_epoch": epoch})()
    data.setup("fit")
    return data


def numbers(batches):
    """Return which images are in batches."""
    return [int(image[0, 0, 0].round()) // 4 for images, _ in batches for image in images]


def test_shards_hold_the_files_as_they_were(folders, shards):
    index = json.loads((shards / "index.json").read_text())
    assert index["classes"] == ["dark", "light"]
    assert index["train"]["images"] == TRAIN and list(index["train"]["bytes"]) == [
        f"train-0000{i}.tar" for i in range(4)
    ]
    samples = [sample for name in index["train"]["bytes"] for sample in read_shard(str(shards / name))]
    files = {path.read_bytes(): ("dark", "light").index(path.parent.name) for path in folders.glob("train/*/*.png")}
    assert {sample.image: sample.label for sample in samples} == files
    # Shuffled: neighbours are not all of one class.
    assert 0 < sum(sample.label for sample in samples[:PER_SHARD]) < PER_SHARD
    kept = [sample.label for sample in read_shard(str(shards / "val-00000.tar"))]
    assert kept == sorted(kept)


def test_packing_twice_is_refused(folders, shards, tmp_path, capsys):
    assert main(["pack", str(folders), str(shards)]) == 2
    assert "already holds shards (index.json); delete them or choose another folder" in capsys.readouterr().err
    assert main(["pack", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds neither train nor val" in capsys.readouterr().err


def test_parts_that_do_not_fit_are_refused_before_one_is_packed(folders, tmp_path, capsys):
    root = tmp_path / "images"
    shutil.copytree(folders, root)
    names = sorted(path.name for path in (root / "val").iterdir())
    (root / "val" / names[0]).rename(root / "val" / "typo")
    assert main(["pack", str(root), str(tmp_path / "out")]) == 2
    assert "has the folder typo, which is none of the" in capsys.readouterr().err and not (tmp_path / "out").exists()
    # One that is missing is none to find, as in a training.
    shutil.rmtree(root / "val" / "typo")
    assert main(["pack", str(root), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "index.json").read_text())["classes"] == names


def test_an_epoch_covers_the_set_in_an_order_of_seed_and_epoch(shards):
    def order(**options):
        return numbers(module(shards, **options).train_dataloader())

    first = order()
    assert sorted(first) == list(range(TRAIN)) and first != sorted(first)
    assert first == order()
    assert order(epoch=1) != first and sorted(order(epoch=1)) == list(range(TRAIN))
    assert order(seed=1) != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_and_workers_share_the_images(shards, world_size, workers):
    parts = [module(shards, rank=rank, world_size=world_size, num_workers=workers) for rank in range(world_size)]
    seen = [numbers(part.train_dataloader()) for part in parts]
    # Every process makes as many batches, whatever its shards hold.
    assert {len(part) for part in seen} == {4 * (TRAIN // (4 * world_size))}
    assert not any(set(a) & set(b) for i, a in enumerate(seen) for b in seen[:i])
    evaluated = [numbers(part.val_dataloader()) for part in parts]
    assert sorted(number for part in evaluated for number in part) == list(range(VAL))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(shards, workers):
    whole = numbers(module(shards, num_workers=workers).train_dataloader())
    loader = module(shards, num_workers=workers).train_dataloader()
    batches = iter(loader)
    begun = numbers([next(batches) for _ in range(3)])
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = module(shards, num_workers=workers).train_dataloader()
    resumed.load_state_dict(state)
    assert begun + numbers(resumed) == whole
    # A state from the end of an epoch means the next one.
    ended = loader.state_dict() | {"batches": len(loader)}
    resumed.load_state_dict(ended)
    assert numbers(resumed) == numbers(module(shards, num_workers=workers, epoch=1).train_dataloader())


def damaged(shards, tmp_path, change, index=True):
    import shutil

    root = tmp_path / "damaged"
    shutil.copytree(shards, root)
    path = root / "train-00002.tar"
    path.write_bytes(change(path.read_bytes()))
    if not index:
        (root / "index.json").unlink()
    return root


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kept", [0, 700, 512 * 5, -1024])
def test_a_truncated_shard_is_named(shards, tmp_path, kept, index):
    root = damaged(shards, tmp_path, lambda content: content[:kept] if kept >= 0 else content[: -(10240 + 512)], index)
    with pytest.raises(DataError, match=r"the shard .*train-00002\.tar is truncated.*; copy it anew or remove it"):
        list(module(root, train_images=TRAIN).train_dataloader())


def test_a_truncated_shard_ends_a_training_with_a_sentence(shards, tmp_path, capsys):
    root = damaged(shards, tmp_path, lambda content: content[:3000])
    flags = [
        f"--data.root={root}",
        "--data.num_workers=2",
        f"--run={tmp_path / 'r'}",
    ]
    assert main(["fit", *MODEL, *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"involution fit: the shard {root / 'train-00002.tar'} is truncated or damaged: 3,000 bytes")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"1.png": b"x"}, "the sample .* has no .cls file with its label"),
        ({"1.cls": b"0"}, "the sample .* has no image"),
        ({"1.png": b"x", "1.cls": b"cat"}, "holds no label: expected a number, got b'cat'"),
        ({"1.png": b"no image", "1.cls": b"0"}, r"the image .*odd\.tar: .* cannot be read: .*; repair or remove it"),
    ],
)
def test_odd_samples_are_named(tmp_path, files, words):
    import io

    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=words):
        list(module(tmp_path, train="odd.tar", val="odd.tar", train_images=4).train_dataloader())


def test_names_of_shards(shards, tmp_path):
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert find_shards(str(shards), "train-{00000..00001}.tar") == [str(shards / f"train-0000{i}.tar") for i in (0, 1)]
    with pytest.raises(DataError, match=r"there is no shard at .*none-\*\.tar; expected tar files, as involution pack"):
        find_shards(str(shards), "none-*.tar")
    with pytest.raises(DataError, match=r"there is no shard at .*train-7\.tar"):
        list(read_shard(str(shards / "train-7.tar")))
    with pytest.raises(DataError, match=r"give their number with --data\.train_images"):
        module(tmp_path, train="train-0.tar", val="train-0.tar")
    with pytest.raises(
        DataError, match=r"the training images \(44\) do not fill one batch of 64 in each of 1 processes"
    ):
        module(shards, batch_size=64)


MODEL = [
    "--data=involution.data.ImageShards",
    "--model=involution.tasks.ClassificationTask",
    "--model.model=rednet26",
    "--model.num_classes=2",
    "--model.model_args={layers: [1, 1, 1, 1], stem: small, channels: [16, 16, 16, 16], kernel_size: 3}",
    "--data.batch_size=8",
    "--data.transforms=involution.data.ImageTransforms",
    "--data.transforms.image_size=8",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def test_a_training_from_shards_resumes_to_the_bit(shards, tmp_path):
    flags = [*MODEL, f"--data.root={shards}", "--data.num_workers=1"]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["fit", *flags, f"--run={whole}"]) == 0
    assert main(["fit", *flags, f"--run={parts}", "--trainer.max_epochs=1"]) == 0
    assert main(["fit", *flags, f"--run={parts}", "--ckpt_path=last"]) == 0
    expected, actual = weights(whole), weights(parts)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
    assert json.loads((whole / "model" / "config.json").read_text())["label_names"] == ["dark", "light"]


def test_two_processes_train_from_shards(shards, tmp_path, copies):
    flags = [*MODEL, f"--data.root={shards}", "--data.num_workers=1"]
    copies.run_two("fit", *flags, f"--run={tmp_path}", "--trainer.strategy=ddp", "--trainer.max_epochs=1")
    assert checkpoint(tmp_path)["global_step"] == TRAIN // 16


def test_images_per_class_survive_packing(shards):
    labels = Counter(sample.label for i in range(4) for sample in read_shard(str(shards / f"train-0000{i}.tar")))
    assert labels == {0: TRAIN // 2, 1: TRAIN // 2}
