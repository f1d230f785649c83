"""Says what an AI agent does, by what it prints as `stream-json`: its turns, its tokens and its cost, its last answer.

    agent -p "…" --output-format stream-json --verbose | python3 agent_reports.py --turns 20

Each line is passed on, so that the run's log has all of it. Standard library only.
"""

import argparse
import json
import os
import sys
from collections import Counter
from typing import Any

TOKENS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def tokens_of(message: dict[str, Any]) -> dict[str, Any]:
    usage = message.get("usage", {})
    return {name: usage[name] for name in TOKENS if usage.get(name)}


class Reporter:
    """Appends a line of JSON to the file that a run is given; without one, nothing."""

    def __init__(self) -> None:
        path = os.environ.get("REPRIEVE_REPORT")
        # Appended, and each by one write: so do others that report at the same moment.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if path else None

    def say(self, **report: Any) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps(report).encode() + b"\n")


class Agent:
    """What is known of it so far."""

    def __init__(self, reporter: Reporter, turns: int) -> None:
        self._reporter, self._turns = reporter, turns
        self._seen: set[str] = set()
        self._told: Counter[str] = Counter()

    def hear(self, event: dict[str, Any]) -> None:
        if event.get("type") == "assistant":
            self._turn(event["message"])
        elif event.get("type") == "result":
            self._end(event)

    def _turn(self, message: dict[str, Any]) -> None:
        sentences = [self._sentence(part) for part in message.get("content", ())]
        report: dict[str, Any] = {"say": next(filter(None, reversed(sentences)), "thinking")}
        # A message comes in several events, each of which has its usage: it counts once.
        if message["id"] not in self._seen:
            self._seen.add(message["id"])
            report["progress"] = min(len(self._seen) / self._turns, 0.99)
            report["usage"] = used = tokens_of(message)
            self._told.update(used)
        self._reporter.say(**report)

    def _end(self, event: dict[str, Any]) -> None:
        # What it says of the whole counts: what of that was not told yet is added.
        usage = dict(Counter(tokens_of(event)) - self._told)
        usage |= {"cost_usd": event.get("total_cost_usd", 0), "turns": event.get("num_turns", 0)}
        answer = {"answer": str(event.get("result"))[:10_000], "error": bool(event.get("is_error"))}
        self._reporter.say(progress=1, say="done", result=answer, usage=usage)

    @staticmethod
    def _sentence(part: dict[str, Any]) -> str | None:
        if part.get("type") == "tool_use":
            return f"uses {part['name']}"
        return part.get("text") if part.get("type") == "text" else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Say what an AI agent does, by what it prints as stream-json.")
    parser.add_argument("--turns", type=int, default=20, help="how many turns it may take: by these, progress is told")
    agent = Agent(Reporter(), parser.parse_args().turns)
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
        try:
            agent.hear(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # A line of another kind, or of another release: it is in the log.


if __name__ == "__main__":
    main()
