"""Write the answers of docs/architecture_search.md from the records in results/search, and their picture.

python -m tools.search [--results results/search] [--docs docs]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from involution import records
from involution.studies.search import answers

from .markdown import source, write_between, write_picture

BEGIN, END = "<!-- answers: made by python -m tools.search -->", "<!-- end of answers -->"
NOTHING = "No record of this is in `results/search` yet."


def lines(folder: Path, docs: Path) -> Iterator[str]:
    """Yield the answers of every table that was replayed, and draw its searches."""
    found = sorted(folder.glob("*_answers.json"))
    if not found:
        yield NOTHING
    for path in found:
        record = records.read(path)
        table_path = path.with_name(record["table"])
        beside = [table_path.with_name(f"{table_path.stem}_{what}.json") for what in ("latency", "scores")]
        read = {one: records.read(one) for one in (table_path, *filter(Path.exists, beside))} | {path: record}
        table = read[table_path]
        state = "all" if table["finished"] else "a part"
        picture = f"search_{table['name']}.png"
        write_picture(docs / "images" / picture, answers.figure(record["results"]), dpi=80)
        yield from ["", f"**{table['title']}**: {len(table['results'])} of {table['asked']} trainings ({state}).", ""]
        yield from [f"![Hypervolume of searches by trainings](images/{picture})", ""]
        yield from answers.markdown(record["results"]).splitlines()
        yield ""
        if "latency_ms" in record["results"]["searches"]:
            measured = read[beside[0]]
            yield from [
                f"Latency is that of one image in `{measured['engine']}`, on {measured['threads']} thread(s).",
                "",
            ]
        yield from (f"- {source(one, where)}" for where, one in read.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/search"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    write_between(arguments.docs / "architecture_search.md", BEGIN, END, list(lines(arguments.results, arguments.docs)))


if __name__ == "__main__":
    main()
