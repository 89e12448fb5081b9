"""``make fuzz``: random calls and mutated files for so many minutes; what fails is kept as a file that a test replays."""

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from fuzzing.mutations import mutated
from fuzzing.operators import CALLS, check_sentence
from fuzzing.readers import READERS, read

from involution import records
from involution.errors import InvolutionError

FAILURES = Path(__file__).parent / "failures"
SECONDS, BYTES = 10, 2 * 2**30


class HangError(Exception):
    """A call took longer than it may."""


@contextmanager
def within(seconds: int, what: str) -> Iterator[None]:
    """Raise `HangError` where the block takes longer."""

    def end(*_):
        raise HangError(f"{what} took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(name: str, path: Path) -> str:
    """Return ``"taken"`` or ``"refused"`` for a file; raise what is neither."""
    import jsonargparse

    # A recipe is read by the parser, too, which has its own refusals, and main turns the others into sentences.
    refusals = (InvolutionError, *((jsonargparse.ArgumentError, OSError, RecursionError) if name == "recipe" else ()))
    try:
        with within(SECONDS, f"{name}, {path}"):
            read(name, path)
        return "taken"
    except HangError:
        raise
    except refusals as refused:
        if name != "recipe":
            check_sentence(refused)
        return "refused"


def write(name: str, dice: random.Random, folder: Path) -> Path:
    """Write a mutated file of a reader into an empty folder."""
    reader = READERS[name]
    file = dice.choice(sorted(reader.files))
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mutated(reader.files[file], dice, is_text=reader.is_text))
    return path


def once(name: str, seed: int) -> str:
    """Try one call or one file, which name and seed determine."""
    dice = random.Random(f"{name} {seed}")
    if name in CALLS:
        with within(SECONDS, name):
            return CALLS[name](dice)
    with tempfile.TemporaryDirectory() as folder:
        path = write(name, dice, Path(folder))
        content, allowed = path.read_bytes(), {path, *READERS[name].written(path)}
        try:
            result = attempt(name, path)
            assert path.read_bytes() == content, f"{path} was changed"
            more = {file for file in Path(folder).rglob("*") if file.is_file()} - allowed
            assert not more, f"files appeared: {more}"
            return result
        except BaseException:
            kept = FAILURES / name.replace(" ", "_") / f"{sha256(content).hexdigest()[:12]}-{path.name}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            print(f"kept as {kept}", file=sys.stderr)
            raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round; the next ones count on")
    parser.add_argument("--only", nargs="*", choices=[*CALLS, *READERS], default=[*CALLS, *READERS])
    parser.add_argument(
        "--calls", type=int, default=50, help="of operators and of layers each, for every file of a reader"
    )
    parser.add_argument("--out", type=Path, help="folder for a record of what was tried")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    counts: Counter[tuple[str, str]] = Counter()
    begun, number = time.monotonic(), 0
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.monotonic() < begun + 60 * arguments.minutes:
        for name in arguments.only:
            # A file takes its reader longer than a call takes an operator.
            count = arguments.calls if name in CALLS else 1
            for seed in range(arguments.seed + number * count, arguments.seed + (number + 1) * count):
                try:
                    counts[name, once(name, seed)] += 1
                except Exception:
                    counts[name, "failed"] += 1
                    print(f"{name}, seed {seed}:", traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
        number += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    results = {name: {kind: counts[name, kind] for kind in ("taken", "refused", "failed")} for name in arguments.only}
    print(f"{'':<12} {'taken':>8} {'refused':>8} {'failed':>8}")
    for name, row in results.items():
        print(f"{name:<12} {row['taken']:>8} {row['refused']:>8} {row['failed']:>8}")
    print(f"{peak / 1024:.0f} MiB more memory than before at most, {number} rounds from seed {arguments.seed}")
    if arguments.out:
        payload = {
            "seed": arguments.seed,
            "rounds": number,
            "calls": arguments.calls,
            "minutes": (time.monotonic() - begun) / 60,
            "results": results,
            "memory_mib": peak / 1024,
        }
        print(records.write("fuzzing", payload, arguments.out))
    failed = sum(row["failed"] for row in results.values())
    return 1 if failed or peak * 1024 > BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
