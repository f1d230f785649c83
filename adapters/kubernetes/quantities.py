"""Quantities as Kubernetes writes them (`k8s.io/apimachinery/pkg/api/resource`), as far as amounts of memory go."""

import re
from decimal import Decimal

_FORM = re.compile(r"(\d{1,30}(?:\.\d{0,9})?)(?:(Ki|Mi|Gi|Ti|Pi|Ei)|([mkMGTPE])|[eE](\d{1,2}))?", re.ASCII)
_BINARY = {name: 1024**power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {"m": Decimal("0.001")} | {name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", 1)}


def bytes_of_quantity(quantity: str | None) -> int | None:
    """The bytes of an amount of memory; None for what is none, or is not understood."""
    found = _FORM.fullmatch(quantity or "")
    if found is None:
        return None
    number, binary, decimal, power = found.groups()
    factor = _BINARY[binary] if binary else _DECIMAL[decimal] if decimal else 10 ** int(power or 0)
    size = int(Decimal(number) * factor)
    return size if size < 2**63 else None
