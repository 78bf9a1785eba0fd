"""How long prompts and answers are: length laws in tokens, and each request's draw from them.

Belongs here: the laws const, uniform, normal, lognorm, empirical and natural, their document form, the draw
by request index. Does not belong here: how many words make so many tokens (``calibrate``), text
(``contents``).

A draw is a function of seed and index alone, so that any request can be made at any time and every shard
agrees. Lengths are rounded to whole tokens; a last bit of another C library's ``exp`` cannot change them but
by a chance of about 1e-12.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadgen.plan import PlanError

LONGEST = 1_000_000
_FIELDS: dict[str, tuple[set[str], set[str]]] = {  # law -> fields it needs, fields it may have
    "const": ({"tokens"}, set()),
    "uniform": ({"low", "high"}, set()),
    "normal": ({"mean", "sd"}, {"cap"}),
    "lognorm": ({"mu", "sigma", "cap"}, {"low"}),
    "empirical": (set(), {"knots", "values", "cap"}),
    "natural": (set(), {"low", "cap", "mean"}),
}


def uniforms(seed: int, index: int, count: int) -> list[float]:
    """*count* (at most 8) independent uniforms on [0, 1) that belong to *index* of *seed*."""
    text = seed.to_bytes(9, "big", signed=True) + index.to_bytes(8, "big", signed=True)
    data = hashlib.blake2b(text, digest_size=8 * count).digest()
    return [(int.from_bytes(data[k : k + 8], "big") >> 11) * 2.0**-53 for k in range(0, 8 * count, 8)]


def normal(first: float, second: float) -> float:
    """A standard normal of two uniforms (Box and Muller)."""
    return math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)


@dataclass(frozen=True, slots=True)
class Law:
    """A law of lengths in tokens.

    ``natural`` says that the text (of a prompt) or the model (of an answer) decides; ``largest`` then is its
    cap. ``empirical`` interpolates between ``knots`` (probability, tokens), draws one of ``values``, or, with
    neither, takes each length from the user's trace.
    """

    kind: str
    figures: Mapping[str, Any]
    largest: int
    mean: float

    @classmethod
    def parse(cls, document: Any, name: str) -> Law:
        """Read ``{law: …, …}``; raises ``PlanError`` naming the field *name*."""
        if not isinstance(document, Mapping) or not isinstance(document.get("law"), str):
            raise PlanError(f"{name}: a mapping with the field law is needed")
        kind = document["law"]
        if kind not in _FIELDS:
            raise PlanError(f"{name}.law: {kind!r} is none of {', '.join(_FIELDS)}")
        needed, optional = _FIELDS[kind]
        given = set(document) - {"law"}
        if missing := needed - given:
            raise PlanError(f"{name}.{min(missing)}: missing for law {kind}")
        if unknown := given - needed - optional:
            raise PlanError(f"{name}.{min(unknown)}: unknown for law {kind}")
        figures = {key: _figure(document[key], f"{name}.{key}") for key in given}
        if figures.get("low", 1) > figures.get("high", figures.get("cap", LONGEST)):
            raise PlanError(f"{name}.low: it exceeds the largest length")
        if {"knots", "values"} <= given:
            raise PlanError(f"{name}: knots and values exclude each other")
        largest, mean = _summary(kind, figures)
        return cls(kind, figures, largest, mean)

    @property
    def of_trace(self) -> bool:
        """Whether each length comes from a row of the user's trace."""
        return self.kind == "empirical" and not self.figures.keys() & {"knots", "values"}

    @property
    def fixed(self) -> bool:
        """Whether every draw is the same."""
        return self.kind in ("const", "natural") or self.of_trace

    def draw(self, first: float, second: float) -> int:
        """A length for two uniforms on [0, 1); for a ``natural`` law its cap."""
        figures = self.figures
        value: float
        if self.kind == "uniform":
            return int(figures["low"] + math.floor(first * (figures["high"] - figures["low"] + 1)))
        if self.kind == "normal":
            value = figures["mean"] + figures["sd"] * normal(first, second)
        elif self.kind == "lognorm":
            value = math.exp(figures["mu"] + figures["sigma"] * normal(first, second))
        elif "knots" in figures:
            value = _interpolate(figures["knots"], first)
        elif "values" in figures:
            value = figures["values"][int(first * len(figures["values"]))]
        else:
            value = self.largest
        return min(self.largest, max(int(figures.get("low", 1)), round(value)))


def _figure(value: Any, name: str) -> Any:
    if name.endswith((".knots", ".values")):
        return _points(value, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PlanError(f"{name}: {value!r} must be a number")
    if name.endswith((".tokens", ".low", ".high", ".cap")) and (
        type(value) is not int or not 1 <= value <= LONGEST
    ):
        raise PlanError(f"{name}: {value!r} must be a whole number from 1 to {LONGEST}")
    if name.endswith((".sd", ".sigma", ".mean")) and value < 0:
        raise PlanError(f"{name}: {value!r} must not be negative")
    if name.endswith((".mu", ".sigma")) and abs(value) > 14:
        raise PlanError(f"{name}: {value!r} is out of the range of token counts")
    return value


def _points(value: Any, name: str) -> tuple[Any, ...]:
    """Checked ``knots`` (tuples of probability and tokens, ascending from 0 to 1) or ``values`` (tokens)."""
    if not isinstance(value, list | tuple) or not value:
        raise PlanError(f"{name}: a list is needed")
    if name.endswith(".values"):
        return tuple(_figure(item, f"{name}.tokens") for item in value)
    points = []
    for point in value:
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise PlanError(f"{name}: each point is [probability, tokens]")
        points.append((float(_figure(point[0], f"{name}.p")), _figure(point[1], f"{name}.tokens")))
    steps = list(pairwise(points))
    if (
        not steps
        or points[0][0] != 0
        or points[-1][0] != 1
        or any(a[0] >= b[0] or a[1] > b[1] for a, b in steps)
    ):
        raise PlanError(f"{name}: probabilities must rise from 0 to 1, and tokens with them")
    return tuple(points)


def _interpolate(knots: tuple[tuple[float, int], ...], at: float) -> float:
    """The inverse distribution function, straight between the knots in the logarithm of tokens."""
    k = min(bisect_right(knots, (at, LONGEST + 1)), len(knots) - 1)
    (p0, low), (p1, high) = knots[k - 1], knots[k]
    return float(low * (high / low) ** ((at - p0) / (p1 - p0)))


def _summary(kind: str, figures: Mapping[str, Any]) -> tuple[int, float]:
    """The largest length and the mean."""
    cap = int(figures.get("cap", LONGEST))
    if kind == "const":
        return figures["tokens"], figures["tokens"]
    if kind == "uniform":
        return figures["high"], (figures["low"] + figures["high"]) / 2
    if kind == "normal":
        return min(cap, max(1, round(figures["mean"] + 4 * figures["sd"]))), figures["mean"]
    if kind == "lognorm":
        return cap, min(cap, math.exp(figures["mu"] + figures["sigma"] ** 2 / 2))
    if "values" in figures:
        return min(cap, max(figures["values"])), sum(figures["values"]) / len(figures["values"])
    if "knots" in figures:
        knots = figures["knots"]
        area = [
            (b[0] - a[0]) * (a[1] if a[1] == b[1] else (b[1] - a[1]) / math.log(b[1] / a[1]))
            for a, b in pairwise(knots)
        ]
        return min(cap, knots[-1][1]), sum(area)
    largest = int(figures.get("cap", 1024 if kind == "natural" else LONGEST))
    return largest, figures.get("mean", largest / 2)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Both laws of a profile: ``isl`` of prompts and ``osl`` of answers."""

    isl: Law
    osl: Law

    def pair(self, seed: int, index: int) -> tuple[int | None, int]:
        """Wished prompt tokens (``None``: the text decides) and ``max_tokens`` of request *index*."""
        if self.isl.fixed and self.osl.fixed:
            one = two = three = four = 0.0
        else:
            one, two, three, four = uniforms(seed, index, 4)
        wished = None if self.isl.kind == "natural" else self.isl.draw(one, two)
        return wished, self.osl.draw(three, four)
