"""The command ``involution complexity``: parameters and multiply-adds beside the published figures."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from ..errors import CommandError
from ..files import write_atomically

__all__ = ["complexity"]


def complexity(
    table: str | None = None,
    name: str | None = None,
    json: bool = False,
    markdown: bool = False,
    update: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Parameters and multiply-adds of RedNet, its controls, ablations and detectors, beside the published figures.

    Args:
        table: only this table: imagenet, ablation, relatives, coco, carafe or cityscapes.
        name: only rows whose name contains this, such as rednet50.
        json: print a list of records.
        markdown: print Markdown tables.
        update: write the Markdown tables into this file, between its two marker comments, and print nothing else.
        plot: draw published accuracy against multiply-adds and against parameters, published and counted, into this folder.
    """
    from ..studies.costs import text
    from ..studies.costs.complexity import measure, select

    if sum((json, markdown, update is not None, plot is not None)) > 1:
        raise CommandError("--json, --markdown, --update and --plot exclude each other; give one of them")
    if plot is not None:
        if table is not None or name is not None:
            raise CommandError("--plot draws every net with a published accuracy; leave out the table and --name")
        _plot(plot)
        return
    try:
        chosen = select(table, name)
        # The page is read before the counting, so that a wrong one is refused at once.
        page = None if update is None else text.split_page(update)
    except ValueError as error:
        raise CommandError(str(error)) from error
    records = [measure(key, row) for key, row in chosen]
    if update is not None and page is not None:
        write_atomically(update, page[0] + text.as_markdown(records) + page[1])
        print(f"wrote {update}")
    elif json:
        print(dumps(records, indent=2, ensure_ascii=False))
    else:
        print(text.as_markdown(records) if markdown else text.as_text(records))


def _plot(folder: Path) -> None:
    from ..studies.costs.envelope import draw_envelopes

    try:
        paths = draw_envelopes(folder)
    except OSError as error:
        raise CommandError(
            f"cannot write into {folder} ({error.strerror}); give a folder that can be written"
        ) from error
    for path in paths:
        print(f"wrote {path}")
