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


class AuthorsBottleneck(nn.Module):
    """1×1 convolution, involution of 7×7 with the stride, 1×1 convolution, around a shortcut."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = AuthorsInvolution(width, 7, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if channels != 4 * width:
            shortcut = nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class AuthorsRedNet26(nn.Module):
    """RedNet-26 with the names of OpenMMLab's classifiers, as the paper describes it, with the released stem of K = 3."""

    def __init__(self, num_classes):
        super().__init__()
        body = nn.Module()
        first, last = ConvolutionNorm(3, 32, norm=False), ConvolutionNorm(32, 64, norm=False)
        first.conv = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        last.conv = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        first.bn, last.bn = nn.BatchNorm2d(32), nn.BatchNorm2d(64)
        body.stem = nn.Sequential(first, AuthorsInvolution(32, 3, 1), nn.BatchNorm2d(32), nn.ReLU(), last)
        channels = 64
        for stage, (blocks, width) in enumerate(((1, 64), (2, 128), (4, 256), (1, 512)), 1):
            layers = []
            for i in range(blocks):
                layers.append(AuthorsBottleneck(channels, width, 2 if i == 0 and stage > 1 else 1))
                channels = 4 * width
            setattr(body, f"layer{stage}", nn.Sequential(*layers))
        self.backbone, self.head = body, nn.Module()
        self.head.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = F.max_pool2d(self.backbone.stem(x), 3, stride=2, padding=1)
        for stage in range(1, 5):
            x = getattr(self.backbone, f"layer{stage}")(x)
        return self.head.fc(x.mean((2, 3)))
