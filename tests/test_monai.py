"""The recipe of the pages for MONAI: its U-Net for volumes, with involutions in the place of its convolutions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from involution import Involution3d, replace_convolutions

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")


def unet():
    return nets.UNet(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(16, 32, 64), strides=(2, 2), num_res_units=2
    )


def test_every_shape_stays_and_the_convolutions_are_involutions():
    plain, net = unet(), unet()
    replaced = replace_convolutions(net, kernel_size=3)
    layers = [module for module in net.modules() if isinstance(module, Involution3d)]
    assert len(layers) >= 6 and str(len(layers)) in str(replaced)
    left = [m for m in net.modules() if isinstance(m, nn.Conv3d) and max(m.kernel_size) > 1 and m.in_channels > 3]
    assert not left
    for size in ((16, 16, 16), (8, 24, 16)):
        x = torch.randn(2, 1, *size)
        assert net(x).shape == plain(x).shape == (2, 2, *size)


def spheres(count, generator):
    """Return noisy volumes with a bright ball in each, and where the balls are."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"))
    centres = 5 + 6 * torch.rand(count, 3, 1, 1, 1, generator=generator)
    inside = ((grid - centres) ** 2).sum(1) < 4**2
    return inside[:, None] + 0.7 * torch.randn(count, 1, 16, 16, 16, generator=generator), inside.long()


def test_it_learns_to_segment_spheres():
    generator = torch.Generator().manual_seed(0)
    net = unet()
    replace_convolutions(net, kernel_size=3)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(40):
        volumes, inside = spheres(4, generator)
        loss = F.cross_entropy(net(volumes), inside)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    volumes, inside = spheres(8, generator)
    with torch.inference_mode():
        found = net.eval()(volumes).argmax(1)
    dice = 2 * (found & inside).sum() / (found.sum() + inside.sum())
    # A threshold on the noisy volumes finds far less.
    threshold = (volumes[:, 0] > 0.5).long()
    assert dice > 0.85 > 2 * (threshold & inside).sum() / (threshold.sum() + inside.sum())
