"""What judges nets without training them alone: proxies, the supernet, hypervolume, parts timed in an engine."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from involution.errors import CommandError
from involution.models.searchable import Blocks
from involution.studies.search import latency as latency_module
from involution.studies.search.latency import Latencies
from involution.studies.search.pareto import front, hypervolume
from involution.studies.search.proxies import gradient_norm, naswot, zico
from involution.studies.search.space import Space
from involution.studies.search.supernet import Supernet, accuracy, recalibrate

RECIPE = {
    "model": {
        "class_path": "involution.tasks.ClassificationTask",
        "init_args": {"model": "rednet26", "num_classes": 10, "model_args": {"stem": "small", "in_chans": 1}},
    },
    "data": {"class_path": "involution.data.SmallImages", "init_args": {"dataset": "digits"}},
}
NETS = [
    "8 c3 / 16 d3 / 32 d7 / 64 c3",
    "4 i3g4l / 12 i9g4r8 i5g4r2 / 24 i7g8l / 48 i7g16r4 i3g16r2",
    "8 a3 a7 / 12 a7 / 32 i9g4r2 i9g4l c3 / 48 a3",
]


def test_hypervolume_is_the_area_by_hand():
    # Squares of a staircase: 3·1 + 2·2 + 1·1 above the points (1, 3), (2, 1), (3, 0) below (4, 4).
    assert hypervolume([(1, 3), (2, 1), (3, 0)], (4, 4)) == 3 * 1 + 2 * 2 + 1 * 1
    assert hypervolume([(2, 1), (1, 3), (3, 0), (3, 3), (1, 3)], (4, 4)) == 8
    assert hypervolume([(4, 0), (0, 4), (5, 5)], (4, 4)) == 0
    assert hypervolume([], (1, 1)) == 0
    assert front([(1, 1), (1, 1), (0, 2), (2, 2)]) == [2, 0]


def test_hypervolume_is_the_area_by_counting():
    generator = torch.Generator().manual_seed(0)
    points = [tuple(point) for point in torch.rand(12, 2, generator=generator).tolist()]
    grid = (torch.arange(1000) + 0.5) / 1000
    covered = torch.zeros(1000, 1000, dtype=torch.bool)
    for x, y in points:
        covered |= (grid[:, None] >= x) & (grid[None, :] >= y)
    assert hypervolume(points, (1.0, 1.0)) == pytest.approx(covered.double().mean().item(), abs=2e-3)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


@pytest.fixture
def tiny():
    return Tiny(), [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(3)]


def test_gradient_norm_is_that_of_backward(tiny):
    net, batches = tiny
    expected = copy.deepcopy(net)
    F.cross_entropy(expected(batches[0][0]), batches[0][1]).backward()
    squares = sum((p.grad**2).sum().item() for p in expected.parameters())
    assert gradient_norm(net, batches) == pytest.approx(math.sqrt(squares))
    assert all(p.grad is None for p in net.parameters())


def test_naswot_counts_what_relus_have_in_common(tiny):
    net, batches = tiny
    codes = (net.first(batches[0][0]) > 0).tolist()
    kernel = [[float(sum(a == b for a, b in zip(one, two))) for two in codes] for one in codes]
    determinant = torch.linalg.det(torch.tensor(kernel, dtype=torch.float64)).item()
    expected = math.log(determinant) if determinant > 1e-9 else -math.inf
    assert naswot(net, batches) == pytest.approx(expected)
    twice = (batches[0][0][:1].expand(2, -1), batches[0][1][:2])
    assert naswot(net, [twice]) == -math.inf


def test_zico_is_the_sum_of_logarithms_by_loops(tiny):
    net, batches = tiny
    gradients = {"first.weight": [], "last.weight": []}
    for images, labels in batches:
        clone = copy.deepcopy(net)
        F.cross_entropy(clone(images), labels).backward()
        for name, values in gradients.items():
            values.append(clone.get_parameter(name).grad.abs().flatten().tolist())
    expected = 0.0
    for values in gradients.values():
        total = 0.0
        for weight in zip(*values):
            middle = sum(weight) / len(weight)
            deviation = math.sqrt(sum((value - middle) ** 2 for value in weight) / len(weight))
            total += middle / deviation if deviation > 0 else 0.0
        expected += math.log(total)
    assert zico(net, batches) == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def supernet():
    return Supernet(RECIPE, Space(), seed=0)


@pytest.mark.parametrize("text", NETS)
def test_a_slice_of_the_supernet_is_the_net_alone_with_these_weights(supernet, text):
    blocks, generator = Blocks.parse(text), torch.Generator().manual_seed(0)
    batch = torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6)
    alone = supernet.net(blocks).train()
    assert alone.blocks == blocks
    loss = F.cross_entropy(alone(batch[0]), batch[1])
    loss.backward()
    shared = supernet.loss(blocks, batch)
    torch.testing.assert_close(shared, loss)
    supernet.zero_grad()
    shared.backward()
    # Every gradient of the net alone arrives in the shared weights: squares add up, for no two parameters share a value.
    ours = sum((p.grad**2).sum().item() for p in supernet.parameters() if p.grad is not None)
    assert ours == pytest.approx(sum((p.grad**2).sum().item() for p in alone.parameters()), rel=1e-4)


def test_slices_are_central_taps_leading_channels_and_every_so_many_th_group(supernet):
    found = supernet.slices(Blocks.parse("8 d3 / 12 c3 / 32 i5g8r4 / 64 c3"))
    shared = dict(supernet.shared)
    assert torch.equal(found["layer1.0.conv2.weight"], shared["depthwise layer1/0/conv2/weight"][:8, :, 2:5, 2:5])
    assert torch.equal(found["layer2.0.conv2.weight"], shared["convolution layer2/0/conv2/weight"][:12, :12])
    assert torch.equal(found["layer2.0.conv1.weight"], shared["layer2/0/conv1/weight"][:12, :32])
    name = "layer3.0.conv2.kernel_generator"
    whole = shared[f"bottleneck {name}.span.weight".replace(".", "/")].detach().view(8, 9, 9, 16)
    rows = [whole[group, u, v, :8] for group in (0, 2, 4, 6) for u in range(2, 7) for v in range(2, 7)]
    assert torch.equal(found[f"{name}.span.weight"].view(100, 8), torch.stack(rows))
    assert torch.equal(found[f"{name}.reduce.weight"], shared[f"bottleneck {name}.reduce.weight".replace(".", "/")][:8])


def test_a_supernet_learns_and_its_nets_are_judged_after_recalibration():
    from involution.data import SmallImages

    data = SmallImages("digits", train_share=0.7, validation_share=0.3, batch_size=64)
    images, labels = data.train_set.__getitems__(range(256))
    supernet, losses = Supernet(RECIPE, Space("convolution", (8, 8, 16, 16)), seed=0), []
    supernet.fit(
        lambda epoch: iter([(images[i : i + 64], labels[i : i + 64]) for i in range(0, 256, 64)]),
        epochs=16,
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert losses[-1] < 0.9 * losses[0]
    net = supernet.net(Blocks.parse("8 c3 / 8 d7 / 16 c3 / 16 d3"))
    recalibrate(net, [images[:128], images[128:]])
    assert not net.training
    # The statistics are the mean over both batches.
    means = [net.conv1(part).mean((0, 2, 3)) for part in (images[:128], images[128:])]
    torch.testing.assert_close(net.bn1.running_mean, (means[0] + means[1]) / 2)
    assert accuracy(net, [(images, labels)]) > 0.25
    wrong = [(images, (net(images).argmax(1) + 1) % 10)]
    assert accuracy(net, wrong) == 0


@pytest.fixture
def _quick(monkeypatch):
    """Let a part take as many milliseconds as it has parameters, in thousands."""
    monkeypatch.setattr(
        Latencies, "_timed", lambda self, module, x: 1 + sum(p.numel() for p in module.parameters()) / 1000
    )


@pytest.mark.usefixtures("_quick")
def test_a_net_takes_what_its_parts_take_and_each_is_timed_once(tmp_path, monkeypatch):
    latencies = Latencies(RECIPE, "eager", tmp_path / "new")
    blocks = Blocks.parse("8 c3 c3 c3 / 16 c3 / 32 i3g8r4 / 64 c3")
    (prediction,) = latencies.check([blocks])
    # What a call takes that does nothing, one millisecond here, counts once and not for stem, six blocks and head.
    assert prediction.predicted_ms == pytest.approx(prediction.measured_ms) and prediction.error == pytest.approx(0)
    monkeypatch.setattr(Latencies, "_timed", lambda self, module, x: pytest.fail("timed again"))
    assert Latencies(RECIPE, "eager", tmp_path / "new")(blocks) == prediction.predicted_ms
    # The call, stem and head, and the blocks, of which the second and third are one part.
    assert len(latencies._times) == 8
    monkeypatch.setattr(latency_module, "__version__", "another")
    assert not Latencies(RECIPE, "eager", tmp_path / "new")._times


def test_processes_share_one_table(tmp_path, monkeypatch):
    """No part is lost or timed twice; of a part that two time at once, both take the time that was kept first."""
    first, second = (Latencies(RECIPE, "eager", tmp_path) for _ in range(2))
    net, other = (Blocks.parse(text) for text in NETS[:2])
    clock = itertools.count(1)
    meanwhile = [lambda: first(net)]

    def timed(self, module, x):
        if self is second and meanwhile:
            meanwhile.pop()()
        return 2.0 ** next(clock)

    monkeypatch.setattr(Latencies, "_timed", timed)
    assert second(net) == first(net)
    second(other)
    times = next(clock)
    assert first(other) == second(other) and first(net) == second(net) and next(clock) == times + 1
    assert first._times == second._times == Latencies(RECIPE, "eager", tmp_path)._times


@pytest.mark.usefixtures("_quick")
def test_nets_of_other_stems_have_other_times(tmp_path):
    """A small stem is as wide as the first stage; what else a recipe's nets share is in the name of the file."""
    latencies = Latencies(RECIPE, "eager", tmp_path)
    for text in ("16 c3 / 16 c3 / 32 c3 / 64 c3", "8 c3 / 16 c3 / 32 c3 / 64 c3"):
        (prediction,) = latencies.check([Blocks.parse(text)])
        assert prediction.error == pytest.approx(0)
    assert sum(key.startswith("stem") for key in latencies._times) == 2

    def changed(model=(), **data):
        recipe = copy.deepcopy(RECIPE)
        recipe["model"]["init_args"].update(model)
        recipe["data"]["init_args"].update(data)
        return Latencies(recipe, "eager", tmp_path)

    arguments = RECIPE["model"]["init_args"]["model_args"]
    others = [
        changed({"num_classes": 100}),
        changed({"model_args": {**arguments, "stem": "plain"}}),
        changed({"model_args": {**arguments, "norm_layer": "groupnorm"}}),
        changed(dataset="mnist"),
    ]
    assert len({other.file for other in [latencies, *others]}) == 5 and not any(other._times for other in others)
    others[-1](Blocks.parse("8 c3 / 16 c3 / 32 c3 / 64 c3"))
    same = changed({"model_args": {**arguments, "blocks": "8 c3 / 16 c3 / 32 c3 / 64 c3"}})
    assert same.file == latencies.file and same._times == latencies._times


def test_parts_are_timed_in_an_engine(tmp_path):
    latencies = Latencies(RECIPE, "folded", tmp_path, rounds=3)
    assert latencies(Blocks.parse("4 c3 / 4 i3g4l / 4 d3 / 4 a3")) > 0


def test_engines_and_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(CommandError, match="unknown engine 'abacus'; expected one of eager"):
        Latencies(RECIPE, "abacus", tmp_path)
    file = Latencies(RECIPE, "eager", tmp_path).file
    file.write_text("{")
    with pytest.raises(CommandError, match=r"is damaged .*; delete it and run again"):
        Latencies(RECIPE, "eager", tmp_path)
