"""Gradients on whatever backend Keras runs."""

import keras
import numpy as np


def gradients(layer, x):
    """Return those of the sum of squares of a layer's output in training: of ``x``, ``span`` and ``reduce``, as arrays."""
    variables = [layer.span.kernel, layer.reduce.kernel]
    found = _WAYS[keras.config.backend()](layer, x, variables)
    return [np.asarray(keras.ops.convert_to_numpy(gradient)) for gradient in found]


def _of_torch(layer, x, variables):
    import torch

    x = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad(layer(x, training=True).square().sum(), [x, *(v.value for v in variables)])


def _of_tensorflow(layer, x, variables):
    import tensorflow

    x = tensorflow.constant(x)
    with tensorflow.GradientTape() as tape:
        tape.watch(x)
        total = tensorflow.reduce_sum(layer(x, training=True) ** 2)
    return tape.gradient(total, [x, *(v.value for v in variables)])


def _of_jax(layer, x, variables):
    import jax

    def total(x, trainable):
        others = [variable.value for variable in layer.non_trainable_variables]
        return (layer.stateless_call(trainable, others, x, training=True)[0] ** 2).sum()

    trainable = layer.trainable_variables
    of_x, of_variables = jax.grad(total, (0, 1))(x, [variable.value for variable in trainable])
    places = [next(i for i, each in enumerate(trainable) if each is variable) for variable in variables]
    return [of_x, *(of_variables[place] for place in places)]


_WAYS = {"torch": _of_torch, "tensorflow": _of_tensorflow, "jax": _of_jax}
