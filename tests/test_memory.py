"""What training keeps for the backward pass, counted without a GPU: saved tensors on fake ones."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from involution import Involution2d


def kept(model, batch, channels, rows):
    """Return the bytes of every storage that a step keeps under autocast to bfloat16, parameters not counted."""
    for module in model.modules():
        if isinstance(module, Involution2d):
            # On fake tensors nothing is launched.
            module.backend = "triton"
    storages, alive = {}, []
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            storages[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        x = torch.empty(batch, channels, rows, rows).to(torch.bfloat16, memory_format=torch.channels_last)
        output = model(x.requires_grad_())
    # The graph has to live until here, or its storages would be freed and their numbers reused.
    del output
    return sorted(storages.values(), reverse=True)


def test_a_layer_keeps_its_input_and_hidden_maps_alone():
    batch, channels, rows, hidden = 8, 64, 28, 16
    pixels = batch * rows * rows * 2
    layer = Involution2d(channels).to(memory_format=torch.channels_last)
    sizes = kept(layer, batch, channels, rows)
    # x, and r before and after its norm (which the norm's and the activation's own derivatives need).
    assert sizes[:3] == [pixels * channels, pixels * hidden, pixels * hidden]
    # Beside them the two matrices and the bias in bfloat16, and a few numbers per channel of the norm.
    assert sum(sizes[3:]) <= 2 * (channels * hidden + 4 * 49 * (hidden + 1)) + 16 * hidden
    assert sum(sizes) < pixels * 4 * 49, "more than the kernel field alone"


def test_a_rednet50_step_keeps_no_more_than_its_convolutional_control():
    timm = pytest.importorskip("timm")
    import involution.models  # noqa: F401

    totals = {}
    for layer, stem in (("involution", "involution"), ("convolution", "deep")):
        model = (
            timm.create_model("rednet50", spatial_layer=layer, stem=stem).train().to(memory_format=torch.channels_last)
        )
        # Weights, gradients and momentum in float32.
        state = 3 * 4 * sum(p.numel() for p in model.parameters())
        totals[layer] = sum(kept(model, 64, 3, 224)) + state
    assert totals["involution"] <= totals["convolution"]
