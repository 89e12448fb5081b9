"""A compiled package takes images in any memory layout, and refuses what its machine code would read wrongly."""

import os
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from involution import Involution2d
from involution.errors import ExportError
from involution.export import load_pt2, to_pt2

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="AOTInductor needs a C++ compiler"
)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Involution2d(3, 16, kernel_size=3)

    def forward(self, images, offsets):
        return self.layer(images) + offsets


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """Return a net, and its package for any batch, heights in steps of 4 and widths of 8 pixels."""
    torch.manual_seed(0)
    model = Pair().eval().to(memory_format=torch.channels_last)
    batch, height = torch.export.Dim("batch", max=5), 4 * torch.export.Dim("quarter", min=2)
    images, offsets = torch.randn(2, 3, 8, 8), torch.randn(2, 16, 8, 8)[..., ::2, :].repeat(1, 1, 2, 1)
    file = tmp_path_factory.mktemp("package") / "pair.pt2"
    shapes = ({0: batch, 2: height}, {0: batch, 2: height})
    to_pt2(model, (images.to(memory_format=torch.channels_last), offsets), file, dynamic_shapes=shapes)
    return model, load_pt2(file)


def test_images_of_any_layout_are_taken(packaged):
    model, loaded = packaged
    offsets = torch.randn(3, 16, 12, 8)
    for images in (
        torch.randn(3, 3, 12, 8),
        torch.randn(3, 3, 12, 8).to(memory_format=torch.channels_last),
        # What every image of an array of pixels is, batches taken apart, and a single image seen three times.
        torch.rand(3, 12, 8, 3).permute(0, 3, 1, 2),
        torch.randn(6, 3, 24, 8)[::2, :, ::2],
        torch.randn(1, 3, 12, 8).expand(3, -1, -1, -1),
    ):
        for other in (offsets, offsets.to(memory_format=torch.channels_last)):
            with torch.no_grad():
                torch.testing.assert_close(loaded(images, other), model(images, other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ((torch.randn(2, 3, 8, 8),), TypeError, "the file takes 2 inputs, got 1"),
        (
            (np.zeros((2, 3, 8, 8)), torch.randn(2, 16, 8, 8)),
            TypeError,
            "input 0 must be a tensor on the CPU, got ndarray",
        ),
        ((torch.randn(2, 3, 8, 8), torch.empty(2, 16, 8, 8, device="meta")), TypeError, "input 1 .*, got one on meta"),
        (
            (torch.randn(2, 3, 8, 8).double(), torch.randn(2, 16, 8, 8)),
            TypeError,
            r"input 0 must be of torch.float32, got torch.float64; convert it with .to\(torch.float32\)",
        ),
        # More of a dimension than there is, one between the steps, one of another size, and a batch that does not match.
        ((torch.randn(6, 3, 8, 8), torch.randn(6, 16, 8, 8)), ValueError, r"got \(6, 3, 8, 8\); export the model for"),
        ((torch.randn(2, 3, 10, 8), torch.randn(2, 16, 10, 8)), ValueError, "from 8 in steps of 4, 8"),
        ((torch.randn(2, 3, 4, 8), torch.randn(2, 16, 4, 8)), ValueError, r"got \(2, 3, 4, 8\)"),
        ((torch.randn(2, 3, 8, 16), torch.randn(2, 16, 8, 16)), ValueError, r"got \(2, 3, 8, 16\)"),
        (
            (torch.randn(2, 3, 8, 8), torch.randn(1, 16, 8, 8)),
            ValueError,
            r"input 1 must have the sizes .*, got \(1, 16",
        ),
        (
            (torch.randn(3, 8, 8), torch.randn(2, 16, 8, 8)),
            ValueError,
            r"input 0 must have the sizes .*, got \(3, 8, 8\)",
        ),
    ],
)
def test_what_it_was_not_made_for_is_refused(packaged, inputs, error, words):
    _, loaded = packaged
    with pytest.raises(error, match=words):
        loaded(*inputs)


def test_a_package_of_somebody_else_is_refused(tmp_path):
    file = tmp_path / "net.pt2"
    with torch.no_grad():
        program = torch.export.export(nn.ReLU(), (torch.randn(2, 3),))
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
    with pytest.raises(ExportError, match=r"net\.pt2 does not say what inputs it takes; write it anew"):
        load_pt2(file)
