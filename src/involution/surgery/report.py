"""What became of every batch norm of a model, to be read and printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FoldReport", "NormReport"]


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
            widths = [max(len(row[i]) for row in rows) for i in range(3)]
            for *names, outcome in rows:
                cells = [name.ljust(width) for name, width in zip(names, widths, strict=True)]
                lines.append("  ".join((*cells, outcome)))
        for name, reason in self.untraced.items():
            lines.append(f"{name or 'the model'} was folded child by child: torch.fx cannot trace it ({reason})")
        return "\n".join(lines)
