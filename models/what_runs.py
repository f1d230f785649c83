"""What a run runs, as a person would say it: its command, in which image and which folder."""

import shlex
from collections.abc import Mapping
from typing import Any

#: Characters that are shown of it.
MAX_SHOWN = 2_000


def what_runs(config: Mapping[str, Any]) -> str | None:
    """By the names that the configs of the adapters have in common; None where none of them is there.

    Variables and standard input are left out: they are long, and more often secret.
    """
    words = [*_texts(config.get("command")), *_texts(config.get("args"))]
    parts = [shlex.join(words)] if words else []
    parts += [f"in {place}" for place in (config.get("image"), config.get("cwd")) if isinstance(place, str) and place]
    said = " ".join(parts)
    return (said if len(said) <= MAX_SHOWN else f"{said[:MAX_SHOWN]} …") or None


def _texts(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else []
