"""Many keys as the parameters of one statement: an array for each of their columns, in the order of the keys.

The order is the same in every transaction, so that two that lock the same rows wait for each other and never deadlock.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from reprieve.models.work import Fence


def fence_arrays(fences: Iterable[Fence]) -> dict[str, Any]:
    """`ids` and `epochs` of these fences, each once."""
    ordered = sorted(set(fences))
    return {"ids": [str(fence.run_id) for fence in ordered], "epochs": [fence.epoch for fence in ordered]}


def key_arrays(keys: Iterable[tuple[UUID, int]]) -> dict[str, Any]:
    """`ids` and `attempts` of these attempts, each once."""
    ordered = sorted(set(keys))
    return {"ids": [str(run_id) for run_id, _ in ordered], "attempts": [attempt for _, attempt in ordered]}
