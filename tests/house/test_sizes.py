"""One purpose a file: none is longer than 400 lines, and half of the library's are below 150."""

from statistics import median

from house.sources import REPOSITORY, modules

LONGEST, MEDIAN = 400, 150
FOLDERS = ("src", "tests", "benchmarks", "tools")
ENDINGS = {".py", ".cpp", ".h"}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_too_long():
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in ENDINGS]
    assert {path.suffix for path in files} == ENDINGS
    long = {str(path.relative_to(REPOSITORY)): lines(path) for path in files if lines(path) > LONGEST}
    assert not long, f"more than {LONGEST} lines: divide the file by its purposes"


def test_half_of_the_files_are_short():
    assert median(lines(module.path) for module in modules().values()) < MEDIAN
