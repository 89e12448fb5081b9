import pytest
import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution import Involution2d, fold_batch_norms


def with_statistics(model):
    """Give every norm statistics and weights that a wrong folding would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def norms(model):
    return [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]


def test_rednet_computes_the_same_without_the_norms_that_follow_convolutions():
    model = with_statistics(timm.create_model("rednet26", num_classes=5)).double()
    folded = fold_batch_norms(model)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x))
    # What is left follows an involution: one in the stem and one in each of the eight blocks.
    assert norms(folded) == ["conv1.4", *(name for name in norms(model) if name.endswith(".bn2"))]
    assert len(norms(folded)) == 9
    assert norms(model)[0] == "conv1.1"
    assert folded.layer1[0].conv2.kernel_generator.reduce.bias is not None


def test_what_fx_cannot_trace_is_folded_child_by_child():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Involution2d(16))
            self.shared = nn.Conv2d(16, 16, 1)
            self.a, self.b = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.body(x)
            return self.a(self.shared(x)) + self.b(self.shared(x)) if x.sum() > 0 else x

    model = with_statistics(Untraceable())
    folded = fold_batch_norms(model)
    assert norms(folded) == ["a", "b"]
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-4)


def test_a_convolution_read_twice_keeps_its_norm():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    assert norms(fold_batch_norms(with_statistics(Branching()))) == ["norm"]


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode only; call model\.eval\(\) first"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
