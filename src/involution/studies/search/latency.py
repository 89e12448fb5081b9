"""The latency of a net in a named engine on this machine, from a table of its parts that are measured once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ... import __version__, records
from ...errors import CommandError, in_one_line
from ...files import locked_in_turn, read_json, write_atomically
from ...models.searchable import Blocks
from ..latency.clock import call_ms
from ..latency.engines import ENGINES
from . import evaluate

__all__ = ["Latencies", "Prediction"]

_SEED = 0
_WARM_UP = 3
# The name of a part that does nothing.
_CALL = "a call"


@dataclass(frozen=True)
class Prediction:
    """A whole net, predicted from its parts and timed.

    Attributes:
        blocks: the net.
        predicted_ms: sum of its parts.
        measured_ms: median time of the net.
    """

    blocks: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """The prediction less the measurement, relative to the latter."""
        return self.predicted_ms / self.measured_ms - 1


class Latencies:
    """Milliseconds of nets for one image, as the sum of stem, blocks and head, each timed once and kept in a file.

    Processes share the file: of parts that two time at once, both take the time that was kept first.
    A part is known by the sizes of its input and output, a block also by its channels, its stride and its layer; what all
    nets share, such as the kind of stem and norm, has a file of its own. What the engine takes for a call that does nothing
    counts once for a net. The sum leaves out what parts cost one another (caches, an engine's work across them): `check` says
    how far it is from whole nets.

    Args:
        recipe: what all nets share, see `involution.studies.search.evaluate.recipe_of`.
        engine: of ``involution benchmark``.
        folder: of the file, made where it does not exist.
        rounds: times that a part is timed; the median counts.

    Raises:
        CommandError: the engine is unknown or cannot run here.
    """

    def __init__(self, recipe: Mapping[str, Any], engine: str, folder: Path, *, rounds: int = 20) -> None:
        if engine not in ENGINES:
            raise CommandError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
        reason = ENGINES[engine].missing("float32")
        if reason:
            raise CommandError(f"{engine} cannot run here: {reason}")
        self._recipe, self._engine, self._rounds = recipe, ENGINES[engine], rounds
        self.threads = torch.get_num_threads()
        self._size = evaluate.input_size(recipe)
        arguments = recipe["model"]["init_args"]
        shared = {
            "size": list(self._size),
            "num_classes": arguments.get("num_classes"),
            "model_args": {key: value for key, value in arguments.get("model_args", {}).items() if key != "blocks"},
        }
        digest = sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]
        self.file = folder / f"latency-{engine}-{self.threads}-thread{'s' if self.threads > 1 else ''}-{digest}.json"
        # Times of another machine or version are none of this one.
        self._here = {
            "processor": records.machine()["processor"],
            "torch": torch.__version__,
            "involution": __version__,
            **shared,
        }
        self._times: dict[str, float] = self._kept()

    def __call__(self, blocks: Blocks) -> float:
        """Return the milliseconds of a net; parts that no process has timed yet are timed first."""
        torch.manual_seed(_SEED)
        net = self._net(blocks)
        self._times |= self._kept()
        known = len(self._times)
        nothing = torch.zeros(1, 1, 1, 1)
        keys = [self._part(_CALL, nn.Identity().eval(), nothing, nothing)]
        x = torch.randn(1, *self._size)
        for name, part in _parts(net, blocks):
            with torch.no_grad():
                y = part(x)
            keys.append(self._part(name, part, x, y))
            x = y
        if len(self._times) > known:
            self._keep()
        call, *parts = (self._times[key] for key in keys)
        return call + sum(max(0.0, part - call) for part in parts)

    def measured(self, blocks: Blocks) -> float:
        """Return the milliseconds of a net that is timed as a whole."""
        return self._timed(self._net(blocks), torch.randn(1, *self._size))

    def check(self, nets: Sequence[Blocks]) -> list[Prediction]:
        """Return the prediction for whole nets beside their times."""
        return [Prediction(str(blocks), self(blocks), self.measured(blocks)) for blocks in nets]

    def _part(self, name: str, part: nn.Module, x: Tensor, y: Tensor) -> str:
        """Time a part that makes ``y`` of ``x``, where it is not known; return its name in the table."""
        key = f"{name}, {' to '.join('×'.join(map(str, map_.shape[1:])) for map_ in (x, y))}"
        if key not in self._times:
            self._times[key] = self._timed(part, x)
        return key

    def _net(self, blocks: Blocks) -> Any:
        return evaluate.build(evaluate.recipe_of(self._recipe, blocks, _SEED)).eval()

    def _timed(self, module: nn.Module, x: Tensor) -> float:
        """Return the median milliseconds of a module in the engine.

        Raises:
            CommandError: the engine does not take it.
        """
        with TemporaryDirectory(prefix="involution-") as name:
            try:
                self._engine.write(module, x, "float32", [], Path(name))
                session = self._engine.open(lambda: module, "float32", self.threads, Path(name))
                taken = [self._engine.taken(x, "float32")]
                for _ in range(_WARM_UP):
                    session(taken)
                return median(call_ms(lambda: session(taken), number) for number in range(self._rounds))
            except (RuntimeError, ValueError, OSError) as error:
                raise CommandError(f"{self._engine.title} refuses a part of a net: {in_one_line(error)}") from error

    def _keep(self) -> None:
        """Write the table; what other processes have written of it meanwhile wins."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked_in_turn(self.file.parent):
            self._times |= self._kept()
            content = {**self._here, "median_ms": dict(sorted(self._times.items()))}
            write_atomically(self.file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _kept(self) -> dict[str, float]:
        try:
            content = read_json(self.file)
            same = all(content.get(key) == value for key, value in self._here.items())
            return {str(key): float(value) for key, value in content["median_ms"].items()} if same else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(f"{self.file} is damaged ({in_one_line(error)}); delete it and run again") from error


def _parts(net: Any, blocks: Blocks) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of stem, blocks and head, in the order in which an image passes them."""
    yield "stem", nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool).eval()
    for number, stage in enumerate(blocks.stages, 1):
        for block, layer in zip(net.get_submodule(f"layer{number}").children(), stage.layers, strict=True):
            stride = block.conv2.stride
            yield f"{layer}, {stage.channels} channels, stride {stride[0]}", block.eval()
    yield "head", nn.Sequential(net.global_pool, net.fc).eval()
