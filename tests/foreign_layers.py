"""Involutions of other code bases, written from the formula with the names and shapes that each gives its weights."""

import torch
from torch import nn
from torch.nn import functional as F


class FromFormula(nn.Module):
    """Y[c] = Σ over the window of φ(X)[g(c)] · X[c], pixel by pixel; a subclass names the parts of φ.

    Nothing here uses the library: the neighbours are cut out of the padded map one by one.
    """

    kernel_size, stride, dilation, groups = 3, 1, 1, 1

    def kernels(self, x):
        raise NotImplementedError

    def value(self, x):
        return x

    def forward(self, x):
        field, value = self.kernels(x), self.value(x)
        batch, channels = value.shape[:2]
        k, s, d = self.kernel_size, self.stride, self.dilation
        margin = d * (k - 1) // 2
        padded = F.pad(value, [margin] * 4)
        out = torch.zeros(batch, channels, *field.shape[2:], dtype=x.dtype)
        for c in range(channels):
            group = c // (channels // self.groups)
            for i in range(field.shape[2]):
                for j in range(field.shape[3]):
                    window = padded[:, c, i * s : i * s + d * (k - 1) + 1 : d, j * s : j * s + d * (k - 1) + 1 : d]
                    weights = field[:, group * k * k : (group + 1) * k * k, i, j]
                    out[:, c, i, j] = (window.flatten(1) * weights).sum(1)
        return out


class ConvolutionNorm(nn.Module):
    """A 1×1 convolution named ``conv``, with a norm named ``bn`` and a ReLU where it has one."""

    def __init__(self, channels, out_channels, norm):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 1, bias=not norm)
        if norm:
            self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        x = self.conv(x)
        return self.bn(x).relu() if hasattr(self, "bn") else x


class AuthorsInvolution(FromFormula):
    """Of d-li14/involution: 16 channels a group, r = 4, φ of the map averaged over the stride."""

    def __init__(self, channels, kernel_size, stride):
        super().__init__()
        self.kernel_size, self.stride, self.groups = kernel_size, stride, channels // 16
        self.conv1 = ConvolutionNorm(channels, channels // 4, norm=True)
        self.conv2 = ConvolutionNorm(channels // 4, kernel_size**2 * self.groups, norm=False)

    def kernels(self, x):
        return self.conv2(self.conv1(x if self.stride == 1 else F.avg_pool2d(x, self.stride)))


class ReichInvolution(FromFormula):
    """Of ChristophReich1996/Involution: the width of φ is a part of the outputs; biases everywhere or nowhere."""

    def __init__(self, in_channels, out_channels, kernel_size=7, groups=1, reduce_ratio=1, dilation=1, bias=False):
        super().__init__()
        self.kernel_size, self.groups, self.dilation = kernel_size, groups, dilation
        hidden = out_channels // reduce_ratio
        self.sigma_mapping = nn.Sequential(nn.BatchNorm2d(hidden, momentum=0.3), nn.ReLU())
        same = in_channels == out_channels
        self.initial_mapping = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.reduce_mapping = nn.Conv2d(in_channels, hidden, 1, bias=bias)
        self.span_mapping = nn.Conv2d(hidden, kernel_size**2 * groups, 1, bias=bias)

    def value(self, x):
        return self.initial_mapping(x)

    def kernels(self, x):
        return self.span_mapping(self.sigma_mapping(self.reduce_mapping(x)))


def with_random_statistics(net):
    """Give every norm statistics and parameters that a training could have left, and return the net for evaluation."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 1.5)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()
