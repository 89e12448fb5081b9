"""Weights from elsewhere: RedNet's of its authors and of PaddleClas, SAN's of its authors; to our names and back."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError
from ..files import replaced
from ..schema import find_problem
from . import checkpoint_files, layer_checkpoints, rednet_shapes, san_checkpoints
from .renaming import translate
from .trained_data import FORM, TrainedData

__all__ = [
    "CheckpointError",
    "Converted",
    "Layout",
    "from_timm",
    "layout_of",
    "misfit",
    "read",
    "read_training",
    "read_with_data",
    "refuse_not_finite",
    "to_timm",
    "under_our_names",
    "write",
]

# What every checkpoint of Lightning's has.
_TRAINING = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "loops": dict,
    **FORM,
}

# What a task of this library's has in front of the names of its net (of a compiled one, too), and of what else it may have
# weights.
_OF_TASK, _BESIDE = ("model._orig_mod.", "model."), "loss."

Layout = Literal["timm", "openmmlab", "paddle", "san"]
State = dict[str, Tensor]

# Our name of a module, and its name in the authors' code (OpenMMLab's layout, without its "backbone." in front).
# `{n}` stands for a number and is the same on both sides.
_MODULES = (
    ("conv1.0", "stem.0.conv"),
    ("conv1.1", "stem.0.bn"),
    ("conv1.3.kernel_generator.reduce", "stem.1.conv1.conv"),
    ("conv1.3.kernel_generator.norm", "stem.1.conv1.bn"),
    ("conv1.3.kernel_generator.span", "stem.1.conv2.conv"),
    ("conv1.4", "stem.2"),
    ("conv1.6", "stem.4.conv"),
    ("bn1", "stem.4.bn"),
    ("layer{n}.{n}.conv2.kernel_generator.reduce", "layer{n}.{n}.conv2.conv1.conv"),
    ("layer{n}.{n}.conv2.kernel_generator.norm", "layer{n}.{n}.conv2.conv1.bn"),
    ("layer{n}.{n}.conv2.kernel_generator.span", "layer{n}.{n}.conv2.conv2.conv"),
    *((f"layer{{n}}.{{n}}.{name}", f"layer{{n}}.{{n}}.{name}") for name in ("conv1", "bn1", "bn2", "conv3", "bn3")),
    *((f"layer{{n}}.{{n}}.downsample.{i}", f"layer{{n}}.{{n}}.downsample.{i}") for i in (0, 1)),
)
_HEADS = {"openmmlab": "head.fc", "paddle": "fc"}
_PADDLE_STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}


@dataclass
class Converted:
    """Weights of a RedNet or a SAN under our names, and what became of every key of the file.

    Attributes:
        state: our state dict.
        model: timm's name of the net, e.g. ``"rednet50"``.
        arguments: what ``timm.create_model`` needs beside the name (``num_classes``, ``stem_kernel_size``, …).
        renamed: key in the file to our key.
        left_out: keys of the file that belong to no RedNet (necks and heads of detectors).
    """

    state: State
    model: str
    arguments: dict[str, Any]
    renamed: dict[str, str]
    left_out: list[str]


def read(file: str | Path) -> State:
    """Read the tensors of a checkpoint: ``.safetensors``, ``.pdparams``, or what ``torch.save`` wrote.

    What ``DataParallel`` (``module.``) and ``torch.compile`` (``_orig_mod.``) put in front of every name is taken off.

    Raises:
        CheckpointError: the file is missing, damaged, holds no weights or some that are quantised, sparse or without
            numbers (``meta``), or is a pickle that wants to run code.
    """
    return read_with_data(file)[0]


def read_with_data(file: str | Path) -> tuple[State, TrainedData]:
    """Read the tensors of a checkpoint, and what one of a training says of its data.

    Raises:
        CheckpointError: as `read`.
    """
    path = Path(file)
    content = checkpoint_files.content(path)
    described = checkpoint_files.metadata(path)
    data = TrainedData.of_metadata(described) if described else TrainedData.of_checkpoint(content)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    named = content.items() if isinstance(content, Mapping) else ()
    state = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no weights: expected a dictionary of tensors by name")
    checkpoint_files.refuse_not_plain(state, path)
    return checkpoint_files.without_wrappers(state), data


def read_training(file: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a training, whole.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of a training, or a pickle that wants to run code.
    """
    path = Path(file)
    content = checkpoint_files.unpickled(path)
    problem = find_problem(content, _TRAINING)
    if problem:
        raise CheckpointError(
            f"{path} is no checkpoint of a training: {problem}; expected a file such as RUN/checkpoints/last.ckpt"
        )
    return content


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """Tell whose names a state dict uses.

    Raises:
        CheckpointError: they are no RedNet's and no SAN's.
    """
    if san_checkpoints.is_theirs(state):
        return "san"
    if any(key.startswith(("backbone.stem.", "backbone.layer1.")) for key in state):
        return "openmmlab"
    if any(key.endswith(("._mean", "._variance")) for key in state):
        return "paddle"
    if any(".kernel_generator." in key for key in state):
        return "timm"
    if any(key.startswith("stem.1.conv1.") for key in state):
        return "openmmlab"
    hint = "; it holds involutions, whose names --layout layers converts" if layer_checkpoints.find(state) else ""
    raise CheckpointError(
        f"these are not the weights of a RedNet or a SAN: expected keys such as 'backbone.stem.1.conv1.conv.weight', "
        f"'conv1.3.kernel_generator.reduce.weight' or 'layer0.0.sam.conv_w.0.weight', got {', '.join(map(repr, list(state)[:3]))}, …"
        f"{hint}"
    )


def to_timm(state: Mapping[str, Tensor]) -> Converted:
    """Rename the weights of any layout to ours and check that they are exactly those of one of the RedNets or SANs.

    Args:
        state: of a net, or of a task that trained one (``model.conv1.0.weight``), as a checkpoint of Lightning's has it.

    Raises:
        CheckpointError: a key is missing or unknown, or a shape is another one; the message lists them.
    """
    prefix = _prefix_of_task(state)
    if prefix:
        converted = to_timm(_behind(prefix, state))
        converted.renamed = {prefix + key: name for key, name in converted.renamed.items()}
        converted.left_out = [key for key in state if key not in converted.renamed]
        return converted
    layout = layout_of(state)
    if layout == "san" or san_checkpoints.is_ours(state):
        new, renamed = san_checkpoints.to_ours(state) if layout == "san" else (dict(state), {key: key for key in state})
        model, arguments = san_checkpoints.architecture(new)
        _check(new, model, arguments)
        return Converted(new, model, arguments, renamed, [])
    return _rednet_to_timm(state, layout)


def under_our_names(state: Mapping[str, Tensor]) -> State:
    """Return the weights of any net of timm: those that other people's code names as `to_timm` does, all others as they are.

    Args:
        state: as of `to_timm`.

    Raises:
        CheckpointError: as `to_timm`, of weights that other people's code names.
    """
    state = _behind(_prefix_of_task(state), state)
    try:
        foreign = layout_of(state) != "timm"
    except CheckpointError:
        foreign = False  # no RedNet and no SAN
    return to_timm(state).state if foreign else dict(state)


def _prefix_of_task(state: Mapping[str, Tensor]) -> str:
    """Return what stands in front of the names of the net that a task trained; "" where these are of no task."""
    for prefix in _OF_TASK:
        if all(key.startswith((prefix, _BESIDE)) for key in state) and any(key.startswith(prefix) for key in state):
            return prefix
    return ""


def _behind(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _rednet_to_timm(state: Mapping[str, Tensor], layout: Layout) -> Converted:
    new: State = {}
    renamed, left_out = {}, []
    for key, value in state.items():
        name = key if layout == "timm" else _our_name(key, layout)
        if name is None:
            left_out.append(key)
            continue
        transposed = layout == "paddle" and name == "fc.weight" and value.ndim == 2
        new[name] = value.t().contiguous() if transposed else value
        renamed[key] = name
    if layout == "paddle":
        for name in [n for n in new if n.endswith(".running_mean")]:
            new[name.removesuffix("running_mean") + "num_batches_tracked"] = torch.tensor(0)
    model, arguments = rednet_shapes.architecture(new)
    _check(new, model, arguments)
    return Converted(new, model, arguments, renamed, left_out)


def from_timm(state: Mapping[str, Tensor], layout: Layout) -> State:
    """Rename our weights to another layout, the inverse of `to_timm`.

    Raises:
        CheckpointError: the layout is that of another family of nets, or has no name for a part of this one.
    """
    if layout == "timm":
        return dict(state)
    if san_checkpoints.is_ours(state) != (layout == "san"):
        raise CheckpointError(
            f"the layout {layout!r} has no names for this net; RedNets are written as openmmlab or paddle, SANs as san"
        )
    if layout == "san":
        return san_checkpoints.from_ours(state)
    new: State = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        if layout == "paddle":
            if parameter == "num_batches_tracked":
                continue
            parameter = _PADDLE_STATISTICS.get(parameter, parameter)
            if key == "fc.weight":
                value = value.t().contiguous()
        prefix = "backbone." if layout == "openmmlab" else ""
        try:
            name = _HEADS[layout] if module == "fc" else prefix + translate(_MODULES, module, to_ours=False)
        except KeyError:
            raise CheckpointError(
                f"the layout {layout!r} has no name for {key!r}; it knows RedNets with the stem 'involution', write others "
                "as timm names them (--layout timm)"
            ) from None
        new[f"{name}.{parameter}"] = value
    return new


def write(
    state: Mapping[str, Tensor],
    file: str | Path,
    metadata: Mapping[str, str] | None = None,
    data: TrainedData | None = None,
) -> None:
    """Write weights as ``.safetensors``, ``.pdparams`` or (any other ending) with ``torch.save``; all or nothing.

    Tensors that share their memory are written each for itself, but for those that `torch.save` writes as the same.

    Args:
        state: the weights.
        file: to write.
        metadata: what else to say of them; a ``.pdparams`` file says nothing.
        data: what they were trained on, if it is known, for `read_with_data`; nor does that file say this.

    Raises:
        CheckpointError: the file cannot be written, a tensor is quantised, sparse or without numbers (``meta``), or a
            ``.pdparams`` file has no such numbers (bfloat16).
    """
    path, details, data = Path(file), dict(metadata or {}), data or TrainedData()
    checkpoint_files.refuse_not_plain(state, path)
    try:
        with replaced(path) as stream:
            if path.suffix == ".safetensors":
                own = checkpoint_files.of_their_own(state, tied=False)
                stream.write(save({name: value.contiguous() for name, value in own.items()}, details | data.metadata()))
            elif path.suffix == ".pdparams":
                pickle.dump({name: _array(path, name, value) for name, value in state.items()}, stream, protocol=2)
            else:
                own = checkpoint_files.of_their_own(state, tied=True)
                torch.save({"meta": details, "state_dict": own, **data.entries()}, stream)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"could not write {path}: {error}") from error


def _array(path: Path, name: str, value: Tensor) -> Any:
    try:
        return value.detach().cpu().numpy()
    except TypeError as error:
        raise CheckpointError(
            f"could not write {path}: it holds NumPy's arrays, which have no {_dtype(value)} (in {name}); convert the weights to "
            "float32, or write .safetensors"
        ) from error


def _our_name(key: str, layout: Layout) -> str | None:
    module, _, parameter = key.rpartition(".")
    if layout == "paddle":
        parameter = {theirs: ours for ours, theirs in _PADDLE_STATISTICS.items()}.get(parameter, parameter)
    if module == _HEADS[layout]:
        return f"fc.{parameter}"
    try:
        return f"{translate(_MODULES, module.removeprefix('backbone.'), to_ours=True)}.{parameter}"
    except KeyError:
        if module.startswith(("backbone.", "stem.", "layer")) or layout == "paddle":
            raise CheckpointError(f"unknown key {key!r} in the weights of a RedNet") from None
        return None


def _check(state: State, model: str, arguments: dict[str, Any]) -> None:
    import timm

    try:
        with torch.device("meta"):
            expected = timm.create_model(model, **arguments).state_dict()
    except ValueError as error:
        raise CheckpointError(f"the weights belong to no {model}: {error}") from error
    problems = misfit(state, expected)
    if problems:
        raise CheckpointError(f"the weights do not fit {model}: {problems}")


def misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], listed: int = 8) -> str:
    """Say in which keys, shapes and kinds of numbers ``state`` differs from ``expected``; "" if in none.

    Args:
        state: weights.
        expected: those of the net; floating numbers of every width fit one another.
        listed: how many differences are named.
    """
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems += [
        f"{key} has numbers of {_dtype(state[key])} instead of {_dtype(value)}"
        for key, value in expected.items()
        if key in state and not _fit(state[key], value)
    ]
    more = f", and {len(problems) - listed} more" if len(problems) > listed else ""
    return "; ".join(problems[:listed]) + more


def _fit(value: Tensor, expected: Tensor) -> bool:
    """Whether a tensor's numbers can be those expected: PyTorch would cast all into all, and drop an imaginary part."""
    if expected.is_floating_point():
        return value.is_floating_point()
    # Counters may have fractions, as in the average of several checkpoints.
    return expected.is_complex() or not value.is_complex()


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def refuse_not_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse weights with which a net answers nothing but NaN.

    Raises:
        CheckpointError: a tensor holds NaN or an infinite number; the message names it and ``source``.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(
                f"{source} holds weights that are no finite numbers (in {name}), as a training leaves them that diverged; "
                "take an earlier checkpoint"
            )
