"""How the weights that all nets of a space share are trained, and what is kept of latencies where the processor is another."""

import math

import pytest
import torch
from test_search_evaluators import RECIPE
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from involution.models.searchable import Blocks
from involution.studies.search import latency as latency_module
from involution.studies.search.latency import Latencies
from involution.studies.search.space import Space
from involution.studies.search.supernet import Supernet, recalibrate


def steps_of(supernet, epochs, steepness=1.0, **options):
    """Train with two batches an epoch, for a plain loss; return learning rate and norm of the gradient of each step."""
    weight, steps = supernet.shared["fc/weight"], []

    def look(optimizer, *_):
        steps.append((optimizer.param_groups[0]["lr"], weight.grad.norm().item()))

    supernet.loss = lambda blocks, batch: steepness * weight.square().sum().sqrt()
    handle = register_optimizer_step_pre_hook(look)
    try:
        supernet.fit(lambda epoch: iter([None] * 2), epochs=epochs, **options)
    finally:
        handle.remove()
    return steps


@pytest.fixture
def supernet():
    return Supernet(RECIPE, Space("convolution", (8, 8, 8, 8)), seed=0)


def test_the_learning_rate_falls_along_a_cosine_epoch_by_epoch(supernet):
    rates = [rate for rate, _ in steps_of(supernet, 4, learning_rate=0.01)]
    cosine = [0.005 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4) for _ in range(2)]
    assert rates == pytest.approx(cosine)


@pytest.mark.parametrize(("steepness", "norm"), [(1, 1), (4.5, 4.5), (1000, 5)])
def test_large_gradients_are_cut_to_a_norm_of_five(supernet, steepness, norm):
    assert [found for _, found in steps_of(supernet, 1, steepness)] == pytest.approx([norm] * 2, rel=1e-4)


def test_recalibration_leaves_every_norm_the_momentum_that_it_had():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=0.03))
    recalibrate(net, [torch.randn(4, 1, 6, 6) for _ in range(2)])
    assert (net[1].momentum, net[2].momentum) == (0.1, 0.03)


def test_times_of_another_processor_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(Latencies, "_timed", lambda self, module, x: 1.0)
    latencies = Latencies(RECIPE, "eager", tmp_path)
    latencies(Blocks.parse("8 c3 / 16 c3 / 32 c3 / 64 c3"))
    assert latencies._times and Latencies(RECIPE, "eager", tmp_path)._times == latencies._times
    here = latency_module.records.machine()
    monkeypatch.setattr(latency_module.records, "machine", lambda: {**here, "processor": "Another CPU"})
    assert not Latencies(RECIPE, "eager", tmp_path)._times
