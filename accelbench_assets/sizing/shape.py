"""What a workload asks of a server, as far as its profile tells: mean and longest lengths, concurrency, objective.

Belongs here: reading a profile for the sizer, and why one does not say enough. Does not belong here: the profiles
(``loadgen.workloads``), estimates (``cells``).

A profile tells a mean length where a law or a stated mean gives it. Prompts out of a data set, a trace or a growing
conversation have none before they are drawn, and a shared prefix makes the prefill shorter by what a cache will hold:
of these there is no estimate rather than a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from loadgen.plan import PlanError
from loadgen.workloads import load, names

if TYPE_CHECKING:
    from loadgen.workloads import Workload


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths in tokens, objectives in ms. ``longest`` is the longest request, prompt and answer.

    ``at_most`` is the highest concurrency of a closed ladder, null for an open loop. ``untold`` says why the profile
    gives no mean lengths; then ``isl`` and ``osl`` are 0. ``sha256`` is the profile's.
    """

    isl: float
    osl: float
    longest: int
    longest_text: str
    at_most: int | None
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    untold: str | None
    sha256: str


@cache
def shape_of(workload: str, *, prefix_caching: bool | None) -> Shape | None:
    """The shape of a packaged profile by id, null for any other. *prefix_caching* null = the engine's default."""
    if workload not in names():
        return None
    try:
        profile = load(workload)
    except PlanError:
        return None
    untold = _untold(profile, prefix_caching)
    closed = [int(value) for kind, value, _ in profile.ladder if kind == "closed"]
    slo = profile.slo or {}
    return Shape(
        isl=0.0 if untold else float(profile.lengths.isl.mean),
        osl=0.0 if untold else float(profile.lengths.osl.mean),
        longest=profile.isl + profile.osl,
        longest_text=f"{profile.isl:,} tokens in and {profile.osl:,} out",
        at_most=max(closed, default=None),
        ttft_ms=slo.get("ttft_ms"),
        tpot_ms=slo.get("tpot_ms"),
        e2e_ms=slo.get("e2e_ms"),
        untold=untold,
        sha256=profile.hash,
    )


def _untold(profile: Workload, prefix_caching: bool | None) -> str | None:
    """Why *profile* has no mean lengths that a prefill and a decode could be computed of."""
    if profile.sessions is not None:
        return f"the conversations of {profile.id} grow with the answers that come"
    if profile.models is not None:
        return f"{profile.id} asks several models of one server"
    if profile.cancel is not None:
        return f"{profile.id} cancels requests on their way"
    for law, what in ((profile.lengths.isl, "prompts"), (profile.lengths.osl, "answers")):
        if law.of_trace:
            return f"{profile.id} takes the lengths of its {what} from a trace"
        if law.kind == "natural" and "mean" not in law.figures:
            return f"{profile.id} does not say how long its {what} are on average"
    if profile.cache != "cold" and prefix_caching is not False:
        return f"part of the prompts of {profile.id} comes from the prefix cache, and how much is not known before"
    return None
