"""Whether a published figure can be true, before anything is concluded from it: against the least times that no engine
can beat, against its own record, and against records of the same configuration.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from accelbench_assets.sizing.bounds import (
    ceiling_output_tok_s,
    least_cache_bytes,
    least_prefill_flop,
    least_weight_bytes,
)
from accelbench_assets.sizing.roofline import Replica

SLACK = 1.02
"""A figure may exceed a ceiling by rounding."""
FEWEST_OUTPUT_TOKENS = 2
TWINS_APART = 1.25


@dataclass(frozen=True, slots=True)
class Figure:
    """One record: milliseconds, tokens, tokens per second over all replicas; ``None`` = not stated.

    ``batch`` is the concurrency of one replica, or the most it can be. ``configuration`` is equal for records of the
    same system under the same load. *speculative*: a step may have yielded several tokens, so the decode has no bound
    here.
    """

    configuration: Hashable
    batch: int
    output_tok_s: float | None = None
    isl: float | None = None
    osl: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    replicas: int | None = None
    replicas_ready: int | None = None
    speculative: bool = False


def least_step_s(one: Replica, batch: float, context: float) -> float:
    """Seconds of a decode step of *batch* sequences of *context* tokens that no engine can beat."""
    read = least_weight_bytes(one) + batch * least_cache_bytes(one, context)
    reading = read / one.bandwidth
    if one.most_flops is None:
        return reading
    return max(reading, 2 * one.weights.read_parameters * batch / one.most_flops)


def least_prefill_s(one: Replica, tokens: float) -> float:
    """Seconds of a prefill of *tokens* that no engine can beat; of reading alone where FLOPS are not published."""
    reading = least_weight_bytes(one) / one.bandwidth
    if one.most_flops is None:
        return reading
    return max(reading, least_prefill_flop(one, tokens) / one.most_flops)


def faults(figure: Figure, one: Replica | None) -> list[str]:
    """Why *figure* cannot stand, against the roofline of its replica where that is known; empty if nothing speaks
    against it."""
    found = []
    if figure.osl is not None and figure.osl < FEWEST_OUTPUT_TOKENS:
        found.append(f"{figure.osl:g} output tokens a request: there is no decode to speak of")
    if figure.isl is not None and figure.isl <= 0:
        found.append("no input tokens")
    if figure.replicas and figure.replicas_ready is not None and figure.replicas_ready < figure.replicas:
        found.append(f"the load began with {figure.replicas_ready} of {figure.replicas} replicas ready")
    if one is None:
        return found
    if figure.output_tok_s is not None and not figure.speculative:
        ceiling = (figure.replicas or 1) * ceiling_output_tok_s(one, figure.batch, figure.isl, figure.osl)
        if figure.output_tok_s > SLACK * ceiling:
            found.append(
                f"{figure.output_tok_s:,.0f} output tokens/s are above the roofline's {ceiling:,.0f}"
            )
    if figure.tpot_ms is not None and not figure.speculative:
        least = 1e3 * least_step_s(one, 1, figure.isl or 1.0)
        if figure.tpot_ms * SLACK < least:
            found.append(f"{figure.tpot_ms:.2f} ms an output token are below the floor of {least:.2f}")
    if figure.ttft_ms is not None and figure.isl:
        alone = 1e3 * least_prefill_s(one, figure.isl)
        if figure.ttft_ms * SLACK < alone:
            found.append(f"TTFT {figure.ttft_ms:.1f} ms is below the prefill floor of {alone:.1f}")
    return found


def disagreeing(figures: Sequence[Figure]) -> list[int]:
    """Places of records that do far worse than another of the same configuration: the better one shows what it can."""
    best: dict[Hashable, float] = {}
    for one in figures:
        rate = one.output_tok_s or 0.0
        best[one.configuration] = max(best.get(one.configuration, 0.0), rate)
    return [
        place
        for place, one in enumerate(figures)
        if one.output_tok_s is not None and one.output_tok_s * TWINS_APART < best[one.configuration]
    ]
