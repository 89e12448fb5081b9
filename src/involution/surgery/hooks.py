"""Whether somebody watches a module, who would see another one after surgery, or none."""

from __future__ import annotations

from torch import nn

__all__ = ["has_hooks"]


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook, before or after the forward or the backward pass, sees or changes what ``module`` computes."""
    # Hooks have no public list.
    forward, backward = module._forward_hooks, module._backward_hooks
    return bool(forward or backward or module._forward_pre_hooks or module._backward_pre_hooks)
