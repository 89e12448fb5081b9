"""FSDP2 on two processes, and trainings whose disk is full."""

from types import SimpleNamespace

import pytest
import torch
from trainings import logged

from involution.commands.main import main
from involution.tasks import sharding

# No batch norm and nothing random beside the order: the two halves of a batch are the batch.
FLAGS = [
    "--model=involution.tasks.ClassificationTask",
    "--model.model=rednet26",
    "--model.num_classes=10",
    "--model.model_args={layers: [1, 1, 1, 1], stem: small, in_chans: 1, channels: [16, 16, 32, 32], kernel_size: 3, "
    "norm_layer: groupnorm1}",
    "--model.optimizer=torch.optim.SGD",
    "--model.optimizer.lr=0.05",
    "--model.optimizer.momentum=0.9",
    "--data=involution.data.SmallImages",
    "--data.batch_size=32",
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=6",
    "--trainer.limit_val_batches=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def losses(run):
    """Return the training losses of the epochs."""
    return [float(row["train_loss"]) for row in logged(run) if row["train_loss"]]


def weights(path):
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def test_fsdp2_trains_as_one_process_which_goes_on_from_its_checkpoint(tmp_path, copies):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["fit", *FLAGS, f"--run={one}"]) == 0
    copies.run_two("fit", *FLAGS, f"--run={two}", "--data.batch_size=16", "--trainer.strategy=fsdp2")
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    expected, actual = (weights(run / "checkpoints" / "last.ckpt") for run in (one, two))
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-4)
    # The folder for predict is written from the best checkpoint, whole.
    import timm

    net = timm.create_model(f"local-dir:{two / 'model'}", pretrained=True)
    best = weights(two / "checkpoints" / "best.ckpt")
    assert all(torch.equal(value, best[f"model.{name}"]) for name, value in net.state_dict().items())
    # One process goes on, with the optimiser's state.
    for run in (one, two):
        assert main(["fit", *FLAGS, f"--run={run}", "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    assert len(losses(two)) == 1


def test_what_is_sharded(tmp_path):
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    from involution.models.rednet import RedNet
    from involution.tasks import ClassificationTask

    net = RedNet((2, 1, 1, 1), num_classes=10, stem="small", channels=(16, 16, 16, 16), kernel_size=3).eval()
    assert list(sharding.units(net)) == [net.layer1[0], net.layer1[1], net.layer2[0], net.layer3[0], net.layer4[0]]
    x = torch.randn(2, 3, 16, 16)
    expected = net(x).detach()
    init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert not sharding.is_sharded(net)
        sharding.shard(net, init_device_mesh("cpu", (1,)))
        assert sharding.is_sharded(net.layer3) and sharding.is_sharded(net.conv1)
        actual = net(x)
        torch.testing.assert_close(actual, expected)
        actual.square().mean().backward()
        assert not ClassificationTask(net, 10).rebuild()
    finally:
        destroy_process_group()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_divided_training_goes_on_with_its_optimiser(tmp_path, momentum):
    from torch import nn
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    def task(lr):
        module = nn.Linear(4, 2)
        sharding.shard(module, mesh)
        strategy = sharding.FullyShardedStrategy()
        strategy._lightning_module = SimpleNamespace(strict_loading=True)
        strategy.model, strategy.optimizers = module, [torch.optim.SGD(module.parameters(), lr, momentum)]
        return module, strategy.optimizers[0], strategy

    init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        module, optimizer, _ = task(0.1)
        module(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        whole = {name: value.full_tensor() for name, value in module.state_dict().items()}
        state = optimizer.state_dict()
        for values in state["state"].values():
            values["momentum_buffer"] = values["momentum_buffer"].full_tensor()
        torch.save({"state_dict": whole, "optimizer_states": [state], "epoch": 3}, tmp_path / "last.ckpt")
        module, optimizer, strategy = task(0.7)
        assert strategy.load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 3
        assert strategy.optimizers == [optimizer]
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert len(optimizer.state) == (2 if momentum else 0)
        assert all(torch.equal(value.full_tensor(), whole[name]) for name, value in module.state_dict().items())
    finally:
        destroy_process_group()


def test_every_epoch_replaces_the_last_checkpoint(tmp_path):
    # A rate of zero: no epoch is better than the first one.
    assert main(["fit", *FLAGS, f"--run={tmp_path}", "--model.optimizer.lr=0"]) == 0
    epochs = [
        torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    ]
    assert epochs == [0, 1]


def test_a_full_disk_keeps_the_checkpoint(tmp_path, copies):
    run = tmp_path / "run"
    assert main(["fit", *FLAGS, f"--run={run}", "--trainer.max_epochs=1"]) == 0
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    # What is written stops there, as on a full disk.
    status, said = copies.run("fit", *FLAGS, f"--run={run}", "--ckpt_path=last", most_bytes=len(before) // 2)
    assert status == 2
    assert said.splitlines()[-1] == (
        f"involution fit: the training in {run} cannot be saved in epoch 1: File too large; allow larger files "
        f"(ulimit -f) and go on from {last}, which is whole, with --ckpt_path last"
    )
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert main(["fit", *FLAGS, f"--run={run}", "--ckpt_path=last"]) == 0
