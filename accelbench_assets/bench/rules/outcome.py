"""What a rule says: pass, warn or void, with its number, its limit and a sentence.

Belongs here: verdicts and how several of them add up. Does not belong here: any rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ORDER = ("pass", "warn", "void")

Verdict = dict[str, Any]
Rules = dict[str, Verdict]


def verdict(
    outcome: str, value: float | int | str | None, limit: float | int | str | None, text: str
) -> Verdict:
    """One rule's entry in ``runs.validity``."""
    return {"verdict": outcome, "value": value, "limit": limit, "text": text}


def overall(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """The worst verdict of *rules*; ``pass`` for none."""
    return max((str(rule["verdict"]) for rule in rules.values()), key=ORDER.index, default="pass")


def first_void(rules: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first rule that voids, which names the run's failure."""
    return next((name for name, rule in rules.items() if rule["verdict"] == "void"), None)


def worst(verdicts: Iterator[Verdict]) -> Verdict:
    """The worst verdict of several steps; among equals the one with the largest number."""
    return max(
        verdicts, key=lambda v: (ORDER.index(v["verdict"]), v["value"] if v["value"] is not None else -1.0)
    )
