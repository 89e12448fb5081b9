"""Changes that turn a right file into a wrong one: bytes of any file, and values of one that is text."""

import random
import re

VALUES = [
    b"0",
    b"-1",
    b"1e308",
    b"-1e308",
    b"NaN",
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b"9" * 400,
    b'"\\u0000"',
    b"*a",
]
NUMBERS = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]


def mutated(content: bytes, dice: random.Random, *, is_text: bool = False) -> bytes:
    """Return ``content`` after one to four changes."""
    for _ in range(dice.randint(1, 4)):
        change = dice.choice(TEXT_CHANGES if is_text and dice.random() < 0.7 else CHANGES)
        content = change(content, dice)
    return content


def _place(content: bytes, dice: random.Random) -> tuple[int, int]:
    start = dice.randint(0, len(content))
    return start, min(len(content), start + dice.choice([1, 1, 2, 4, 16, 256]))


def flip(content: bytes, dice: random.Random) -> bytes:
    start, end = _place(content, dice)
    return (
        content[:start] + bytes(byte ^ dice.choice([1, 2, 64, 128, 255]) for byte in content[start:end]) + content[end:]
    )


def cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randint(0, len(content))]


def drop(content: bytes, dice: random.Random) -> bytes:
    start, end = _place(content, dice)
    return content[:start] + content[end:]


def double(content: bytes, dice: random.Random) -> bytes:
    start, end = _place(content, dice)
    return content[:end] + content[start:end] * dice.choice([1, 1, 50]) + content[end:]


def number(content: bytes, dice: random.Random) -> bytes:
    start, _ = _place(content, dice)
    chosen = dice.choice(NUMBERS)
    return content[:start] + chosen + content[start + len(chosen) :]


def swap(content: bytes, dice: random.Random) -> bytes:
    (a, b), (c, d) = sorted(_place(content, dice) for _ in range(2))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:] if b <= c else content


def value(content: bytes, dice: random.Random) -> bytes:
    """Replace a number or a quoted text by something else."""
    found = list(re.finditer(rb'-?\d+(\.\d+)?|"[^"]*"', content))
    if not found:
        return content
    chosen = dice.choice(found)
    return content[: chosen.start()] + dice.choice(VALUES) + content[chosen.end() :]


def nest(content: bytes, dice: random.Random) -> bytes:
    start, end = _place(content, dice)
    depth = dice.choice([1, 10, 5000])
    return content[:start] + b"[" * depth + content[start:end] + b"]" * depth + content[end:]


CHANGES = [flip, flip, cut, drop, double, number, number, swap]
TEXT_CHANGES = [value, value, value, nest, drop, double]
