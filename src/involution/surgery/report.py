"""What became of every batch norm, or of every convolution, of a model, to be read and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ConvolutionReport", "FoldReport", "NormReport", "ReplacementReport"]


@dataclass(frozen=True)
class NormReport:
    """What became of one batch norm.

    Attributes:
        norm: its name in the model.
        layer: name of the layer that took it up, or None if it was left.
        activation: name of the ReLU that the layer took along, or None.
        outcome: what was done, or why nothing was, in a clause.
    """

    norm: str
    layer: str | None
    activation: str | None
    outcome: str


@dataclass(frozen=True)
class FoldReport:
    """What `involution.fold_batch_norms` did; ``print`` shows it as a table.

    Attributes:
        norms: one entry for every batch norm, in the order of ``model.named_modules()``.
        untraced: name and reason of every module that ``torch.fx`` could not trace, and whose children were folded one
            by one.
    """

    norms: tuple[NormReport, ...]
    untraced: Mapping[str, str] = field(default_factory=dict)

    @property
    def folded(self) -> tuple[NormReport, ...]:
        """The norms that are now part of a layer."""
        return tuple(entry for entry in self.norms if entry.layer is not None)

    @property
    def left(self) -> tuple[NormReport, ...]:
        """The norms that are as they were."""
        return tuple(entry for entry in self.norms if entry.layer is None)

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} of {len(self.norms)} batch norms folded"]
        rows = [("layer", "norm", "activation", "what was done")]
        for entry in self.norms:
            rows.append((entry.layer or "–", entry.norm or "–", entry.activation or "–", entry.outcome))
        if self.norms:
            lines += _table(rows)
        for name, reason in self.untraced.items():
            lines.append(f"{name or 'the model'} was folded child by child: torch.fx cannot trace it ({reason})")
        return "\n".join(lines)


@dataclass(frozen=True)
class ConvolutionReport:
    """What became of one convolution.

    Attributes:
        names: of the places in the model where it stands.
        replaced: whether an involution stands there now (after a dry run: would stand).
        outcome: kernel and groups of the involution, or why the convolution stayed, in a clause.
        params_before: number of its parameters.
        params_after: of those of what stands there now.
    """

    names: tuple[str, ...]
    replaced: bool
    outcome: str
    params_before: int
    params_after: int


@dataclass(frozen=True)
class ReplacementReport:
    """What `involution.replace_convolutions` did, or would do; ``print`` shows it as a table.

    Attributes:
        convolutions: one entry for every convolution outside of involutions, in the order of ``model.named_modules()``.
        params: number of parameters of the model, before and after.
        macs: its multiply-adds for one input, before and after; None where no ``input_size`` was given.
    """

    convolutions: tuple[ConvolutionReport, ...]
    params: tuple[int, int]
    macs: tuple[int, int] | None = None

    @property
    def replaced(self) -> tuple[str, ...]:
        """The names of the places where involutions stand now."""
        return tuple(name for entry in self.convolutions if entry.replaced for name in entry.names)

    @property
    def left(self) -> tuple[ConvolutionReport, ...]:
        """The convolutions that are as they were."""
        return tuple(entry for entry in self.convolutions if not entry.replaced)

    def __str__(self) -> str:
        count = len(self.convolutions) - len(self.left)
        lines = [f"{count} of {len(self.convolutions)} convolutions replaced"]
        rows = [("convolution", "parameters", "now", "what was done")]
        for entry in self.convolutions:
            after = f"{entry.params_after:,}" if entry.replaced else "–"
            rows.append((", ".join(entry.names), f"{entry.params_before:,}", after, entry.outcome))
        lines += _table(rows) if self.convolutions else []
        lines.append(f"parameters: {self.params[0]:,} before, {self.params[1]:,} after")
        if self.macs is not None:
            lines.append(f"multiply-adds: {self.macs[0]:,} before, {self.macs[1]:,} after")
        return "\n".join(lines)


def _table(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
