"""Laws of time and length: what a service, a first token, a gap or an answer's length is drawn from.

Belongs here: their text form, seeded draws, exact means, one child generator for each purpose.
Does not belong here: when a draw is made (``loop``: one a request and purpose, in order of arrival).

A purpose has a generator of its own, so that another TTFT law does not change which requests fail. Seeding
by text gives the same draws on every Python and under every hash seed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple


class _Kind(NamedTuple):
    parameters: tuple[str, ...]
    meaning: str


KINDS = {
    "const": _Kind(("value",), "always the value"),
    "exp": _Kind(("mean",), "exponential"),
    "uniform": _Kind(("low", "high"), "uniform between both"),
    "erlang": _Kind(("stages", "mean"), "a sum of so many equal exponential stages, the mean is of the sum"),
    "lognorm": _Kind(("median", "sigma"), "log-normal; sigma is of the logarithm"),
}


@dataclass(frozen=True, slots=True)
class Law:
    """A distribution of values >= 0 in the unit of its parameters: milliseconds, or tokens for lengths."""

    kind: str
    parameters: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Law:
        """``kind:a[:b]``, or a plain number for ``const``; raises ``ValueError`` saying what is wrong."""
        name, *rest = text.strip().split(":")
        if not rest and name not in KINDS:
            name, rest = "const", [name]
        kind = KINDS.get(name)
        try:
            values = tuple(map(float, rest))
        except ValueError:
            kind = None
        if kind is None:
            raise ValueError(f"{text!r}: a law is a number or one of {', '.join(map(form, KINDS))}")
        if len(values) != len(kind.parameters):
            raise ValueError(f"{text!r}: {name} has {len(kind.parameters)} parts, as in {form(name)}")
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"{text!r}: the parts of a law are finite and not negative")
        if name == "uniform" and values[0] > values[1]:
            raise ValueError(f"{text!r}: the low end is above the high end")
        if name == "erlang" and (values[0] < 1 or values[0] != int(values[0])):
            raise ValueError(f"{text!r}: the stages of erlang are a whole number of at least 1")
        return cls(name, values)

    @property
    def constant(self) -> float | None:
        """The value of a law that has only one, ``None`` for any other."""
        return self.parameters[0] if self.kind == "const" else None

    @property
    def mean(self) -> float:
        """The exact expectation."""
        first, *rest = self.parameters
        if self.kind == "uniform":
            return (first + rest[0]) / 2
        if self.kind == "lognorm":
            return first * math.exp(rest[0] ** 2 / 2)
        return rest[0] if self.kind == "erlang" else first

    def draw(self, source: random.Random) -> float:
        """One value from *source*."""
        first = self.parameters[0]
        if self.kind == "const":
            return first
        if self.kind == "exp":
            return _exponential(source, first)
        second = self.parameters[1]
        if self.kind == "uniform":
            return first + (second - first) * source.random()
        if self.kind == "erlang":
            return sum(_exponential(source, second / first) for _ in range(int(first)))
        return first * math.exp(second * source.gauss(0.0, 1.0))

    def __str__(self) -> str:
        """The text form, which :meth:`parse` reads back."""
        return ":".join([self.kind, *(f"{value:g}" for value in self.parameters)])


def child(seed: int, purpose: str) -> random.Random:
    """The generator of one *purpose* (``ttft``, ``gap``, ``service``, ``length``, ``faults``)."""
    return random.Random(f"{seed}:{purpose}")


def form(name: str) -> str:
    """How a law of that kind is written, ``erlang:STAGES:MEAN``."""
    return ":".join([name, *(part.upper() for part in KINDS[name].parameters)])


def _exponential(source: random.Random, mean: float) -> float:
    return -mean * math.log(1.0 - source.random())
