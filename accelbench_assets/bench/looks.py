"""When a measurement may be looked at, so that looking does not decide it. Rule S9 and S4's extension.

Belongs here: the fixed looks, their error levels, the decision at each. Does not belong here: the intervals (``slo``,
``quantiles``), running longer (``run``).

A window that is extended until it passes will pass. Three looks at fixed doublings share one error level of 0.05:
0.025, 0.0125 and 0.0125 (a Bonferroni split, valid whatever the dependence of the looks).
"""

from __future__ import annotations

from dataclasses import dataclass

LOOK_ALPHAS = (0.025, 0.0125, 0.0125)


@dataclass(frozen=True, slots=True)
class Look:
    """One look: after *window_s* seconds of window, with intervals at *confidence*."""

    index: int
    window_s: float
    confidence: float


def looks(window_s: float) -> tuple[Look, ...]:
    """The looks of a step whose first window is *window_s*: W, 2 W, 4 W. Nothing else may stop a run early."""
    return tuple(Look(k, window_s * 2**k, 1.0 - alpha) for k, alpha in enumerate(LOOK_ALPHAS))


def after_look(index: int, decision: str) -> str:
    """``stop`` when *decision* (of ``slo.decide`` with the look's confidence) is made or no look is left, else
    ``extend``: double the window."""
    return "extend" if decision == "undecided" and index + 1 < len(LOOK_ALPHAS) else "stop"
