"""Models that cannot be copied, and copies made in inference mode."""

import threading

import pytest
import torch
from folding import settled
from torch import nn
from torch.nn.utils import prune

from involution import fold_batch_norms


def pair():
    return settled(nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)), 2, 16, 5, 5)


def with_lock(model):
    model.lock = threading.Lock()


def pruned(model):
    prune.l1_unstructured(model[0], "weight", 0.5)
    model(torch.randn(2, 16, 5, 5))


@pytest.mark.parametrize(
    ("change", "words"), [(with_lock, "TypeError: .*lock"), (pruned, "RuntimeError: Only Tensors")]
)
def test_a_model_that_cannot_be_copied_is_refused_in_a_sentence(change, words):
    model = pair()
    change(model)
    with pytest.raises(
        ValueError, match=rf"must be one that copy\.deepcopy copies, got {words}.*; take out of its.*remove"
    ):
        fold_batch_norms(model)


def test_a_copy_made_in_inference_mode_has_gradients():
    with torch.inference_mode():
        folded, _ = fold_batch_norms(pair())
    folded(torch.randn(2, 16, 5, 5)).sum().backward()
    assert folded[0].weight.grad is not None
