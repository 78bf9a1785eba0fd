"""Amounts such as ``500m`` cpu and ``32Gi`` memory.

Belongs here: reading them, what a pod asks for. Does not belong here: who gets what (``scheduler``, ``quota``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.launch.kube.kinds import Obj

_FORM = re.compile(r"^([+-]?[0-9.]+)([eE][-+]?[0-9]+|[numkKMGTPE]i?)?$")
_SUFFIX = {
    **{name: Decimal(1000) ** power for power, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{name: Decimal(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)},
}


def quantity(text: Any) -> Decimal:
    """Raises ``ValueError`` for what is no quantity."""
    found = _FORM.match(str(text))
    if found is None:
        raise ValueError(str(text))
    suffix = found[2] or ""
    if suffix[:1] in ("e", "E") and suffix[1:]:
        return Decimal(found[1] + suffix)
    if suffix not in _SUFFIX:
        raise ValueError(str(text))
    return Decimal(found[1]) * _SUFFIX[suffix]


def is_device(resource: str) -> bool:
    """An extended resource, such as ``nvidia.com/gpu``: whole numbers, never shared."""
    return "/" in resource


def requests(pod: Obj) -> dict[str, Decimal]:
    """What the scheduler counts: the sum over containers, or the biggest init container; and one pod."""
    total: dict[str, Decimal] = {}
    for container in pod["spec"].get("containers") or ():
        for name, amount in _asked(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    for container in pod["spec"].get("initContainers") or ():
        for name, amount in _asked(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return {**total, "pods": Decimal(1)}


def _asked(container: Mapping[str, Any]) -> dict[str, Decimal]:
    resources = container.get("resources") or {}
    named = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in named.items()}
