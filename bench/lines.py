"""Log lines as programs print them: a time, a level, words, numbers; the same ones every time."""

import random

WORDS = [
    "request",
    "worker",
    "finished",
    "started",
    "retry",
    "timeout",
    "user",
    "session",
    "cache",
    "batch",
    "index",
    "query",
    "payload",
    "token",
    "shard",
]


def lines(count: int, size: int) -> list[bytes]:
    """`count` lines of exactly `size` bytes."""
    made = random.Random(1)
    return [_line(made, number, size) for number in range(count)]


def _line(made: random.Random, number: int, size: int) -> bytes:
    level = made.choice(["INFO", "INFO", "INFO", "DEBUG", "WARNING"])
    at = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.{made.randrange(1000):03}"
    text = f"2026-01-01T{at} {level} "
    while len(text) < size - 1:
        text += f"{made.choice(WORDS)}={made.randrange(100_000)} "
    return text[: size - 1].encode() + b"\n"
