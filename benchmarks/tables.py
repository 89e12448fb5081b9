"""Write the tables of docs/performance.md from the records in results/.

python -m benchmarks.tables [--results results] [--page docs/performance.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from involution.analysis import records

BEGIN, END = "<!-- tables: made by python -m benchmarks.tables -->", "<!-- end of tables -->"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head = list(head)
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def source(record: dict[str, Any], path: Path) -> str:
    """Return the line that says where figures come from."""
    machine = record["machine"]
    return (
        f"`{record['command']}`, commit {str(record['commit'])[:10]}, {machine['processor']}, {machine['cores']} cores, "
        f"{record.get('instruction_set')}, torch {record['versions']['torch']}, {record['date'][:10]}; "
        f"record: `{path.as_posix()}`."
    )


def operator_tables(record: dict[str, Any]) -> list[str]:
    """Return forward and backward times of the operator and its peers, and the ratios."""
    lines: list[str] = []
    for part in ("forward", "backward"):
        names = list(record["results"][0][part])
        rows = [
            [f"{r['batch']}×{r['channels']}×{r['size']}²", *(f"{r[part][n]['median_ms']:.2f}" for n in names)]
            for r in record["results"]
        ]
        lines += ["", f"**{part.capitalize()}, median ms**", "", *table(["shape", *names], rows)]
    names = list(record["results"][0]["ratios"])
    rows = [
        [f"{r['batch']}×{r['channels']}×{r['size']}²", *(f"{r['ratios'][n]:.2f}" for n in names)]
        for r in record["results"]
    ]
    return [*lines, "", "**Ratios**", "", *table(["shape", *names], rows)]


def net_tables(record: dict[str, Any]) -> list[str]:
    """Return times and ratios of whole nets, and the memory of training."""
    rows = []
    for result in record["results"]:
        for name, time in result["times"].items():
            peak = f"{result['peak_mib'][name]:.0f}" if "peak_mib" in result and name in result["peak_mib"] else ""
            saved = f"{result['saved_mib'][name]:.0f}" if "saved_mib" in result and name in result["saved_mib"] else ""
            what = f"{result['kind']}, batch {result['batch']}"
            rows.append([what, name, f"{time['median_ms']:.1f}", f"{result['ratios'][name]:.2f}", peak, saved])
    return ["", *table(["", "net", "median ms", "to ResNet", "peak MiB", "saved for backward MiB"], rows)]


def segmenter_tables(record: dict[str, Any]) -> list[str]:
    """Return latency and peak memory of the segmentation nets."""
    rows = [
        [
            f"{r['size'].replace('x', '×')}",
            r["net"],
            f"{r['macs_g']:.1f}",
            f"{r['median_ms']:.0f} ({r['quartile_1_ms']:.0f} to {r['quartile_3_ms']:.0f})",
            f"{r['ratio']:.2f}",
            f"{r['peak_mib']:.0f}",
        ]
        for r in record["results"]
    ]
    head = ["image", "Semantic FPN", "MACs G", "median ms (quartiles)", "to ResNet", "peak MiB"]
    return ["", *table(head, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    arguments = parser.parse_args()
    lines: list[str] = []
    for pattern, title, make in (
        ("operator-cpu-*", "The operator", operator_tables),
        ("nets-cpu-*", "Nets", net_tables),
        ("segmenters-cpu-*", "Segmentation nets", segmenter_tables),
    ):
        for path in sorted(arguments.results.glob(f"{pattern}.json")):
            record = records.read(path)
            threads = record["machine"]["threads"]
            lines += [
                "",
                f"## {title}, {threads} thread{'s' if threads > 1 else ''}",
                *make(record),
                "",
                source(record, path),
            ]
    page = arguments.page.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in page:
        raise SystemExit(f"{arguments.page} must hold the lines {BEGIN!r} and {END!r}")
    records.write_atomically(arguments.page, f"{before}{BEGIN}\n" + "\n".join(lines).strip() + f"\n\n{END}{after}")


if __name__ == "__main__":
    main()
