"""Was the work whole and the same everywhere: rules M13, M15, M18, M22 and the token counts of the dictionary.

Belongs here: verdicts on what came back. Does not belong here: how much of it is enough (``evidence``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accelbench_assets.bench.frame import Frame, load_label
from accelbench_assets.bench.metrics import ERROR_SHARE_OVERLOADED, Row
from accelbench_assets.bench.rules.outcome import Verdict, verdict

ERROR_SHARE_NOT_ELIGIBLE = 0.01
LENGTH_TOLERANCE, LENGTH_SHARE, MISMATCH_SHARE = 0.01, 0.01, 0.01  # M15, §1.1
SHARED_CHUNK_SHARE = 0.20  # M22
COLD_CACHE_SHARE, SHARED_CACHE_TOLERANCE = 0.01, 0.05  # M18
CANARY_POINTS = 0.01  # M17: one point of the task score


def errors(steps: Sequence[Row]) -> Verdict:
    """M13: over 1 % failed is not eligible for best, over 5 % is overloaded, a step without any success voids."""
    if not steps or all(step["ok"] == 0 for step in steps):
        return verdict("void", 1.0, ERROR_SHARE_NOT_ELIGIBLE, "No request of any window succeeded.")
    worst = max(steps, key=lambda step: step["error_rate"] or 0.0)
    share = worst["error_rate"] or 0.0
    label = load_label(worst["load_kind"], worst["load_value"])
    where = f"{share:.1%} of the requests of step {label} failed"
    if worst["ok"] == 0:
        return verdict("void", share, ERROR_SHARE_NOT_ELIGIBLE, f"No request of step {label} succeeded.")
    if share > ERROR_SHARE_OVERLOADED:
        return verdict("warn", share, ERROR_SHARE_OVERLOADED, f"{where}: the server was overloaded.")
    if share > ERROR_SHARE_NOT_ELIGIBLE:
        return verdict(
            "warn", share, ERROR_SHARE_NOT_ELIGIBLE, f"{where}: the step is not eligible for best."
        )
    return verdict("pass", share, ERROR_SHARE_NOT_ELIGIBLE, f"{where}.")


def length_fidelity(frame: Frame) -> Verdict:
    """M15: answers of another length than asked, on a profile of fixed lengths."""
    asked, got = frame.numbers("output_tokens_requested"), frame.numbers("output_tokens")
    # The generator fails an answer of another length.
    answered = frame.ok | frame.says("error_class", "wrong_length")
    known = frame.arrived & answered & (asked > 0) & ~np.isnan(got)
    index = frame.window.label
    if not known.any():
        return verdict("warn", None, LENGTH_SHARE, f"Output lengths of step {index} are unknown.")
    share = float((np.abs(got[known] / asked[known] - 1.0) > LENGTH_TOLERANCE).mean())
    text = f"{share:.1%} of the answers of step {index} differ from the asked length by more than 1 %."
    return verdict("void" if share > LENGTH_SHARE else "pass", share, LENGTH_SHARE, text)


def token_count(steps: Sequence[Row]) -> Verdict:
    """§1.1: streamed tokens against the server's own count."""
    shares = [step["token_mismatch_share"] for step in steps if step["token_mismatch_share"] is not None]
    if not shares:
        return verdict(
            "warn", None, MISMATCH_SHARE, "No answer carries both streamed tokens and a server count."
        )
    share = max(shares)
    text = (
        f"In {share:.1%} of the answers the streamed tokens and the server's count differ by more than 2 %."
    )
    return verdict("warn" if share > MISMATCH_SHARE else "pass", share, MISMATCH_SHARE, text)


def buffering(frame: Frame) -> Verdict:
    """M22: token chunks that shared a read; their gaps are the transport's."""
    shared = frame.numbers("shared_chunks")[frame.arrived]
    chunks = int(frame.chunk_counts[frame.arrived].sum())
    share = float(np.nansum(shared)) / chunks if chunks else 0.0
    text = f"{share:.1%} of the token chunks of step {frame.window.label} shared a read with another"
    if share > SHARED_CHUNK_SHARE:
        return verdict(
            "warn",
            share,
            SHARED_CHUNK_SHARE,
            f"{text}: transport-buffered, the ITL tail is not the engine's.",
        )
    return verdict("pass", share, SHARED_CHUNK_SHARE, f"{text}.")


def prefix_cache(
    frames: Sequence[Frame], designed_share: float | None, template_tokens: float, *, demo: bool = False
) -> Verdict | None:
    """M18: the share of prompt tokens that the server took from its prefix cache, against the designed one.

    *designed_share* is 0 for a cold profile, ``None`` where the profile designs none (then there is no rule).
    *template_tokens*, the chat template every prompt begins with, are no part of the profile's text and are left
    out of both sides.
    """
    if designed_share is None:
        return None
    cached_tokens = prompt_tokens = 0.0
    for frame in frames:
        cached, prompt = frame.numbers("cached_input_tokens"), frame.numbers("input_tokens")
        known = frame.arrived & frame.ok & ~np.isnan(cached) & ~np.isnan(prompt)
        cached_tokens += float(np.maximum(cached[known] - template_tokens, 0.0).sum())
        prompt_tokens += float(np.maximum(prompt[known] - template_tokens, 1.0).sum())
    kind = "cold" if designed_share == 0 else f"shared to {designed_share:.0%}"
    if not prompt_tokens:
        text = f"The server reports no cached tokens: whether its cache was {kind} is unknown."
        return verdict("pass" if demo else "warn", None, designed_share, text)
    share = cached_tokens / prompt_tokens
    text = f"{share:.1%} of the prompt tokens came from the prefix cache; the profile's cache is {kind}."
    limit = COLD_CACHE_SHARE if designed_share == 0 else SHARED_CACHE_TOLERANCE
    return verdict(
        "void" if abs(share - designed_share) > limit else "pass", share, designed_share + limit, text
    )


def canary(found: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> Verdict | None:
    """M17: the task score and the exact answers of the canary prompts, against those of the *reference* run.

    Both are ``{"set", "n", "score", "answer_hashes"}``. ``None`` when no canary was asked.
    """
    if found is None:
        return None
    score, n = float(found["score"]), int(found["n"])
    text = f"{score:.0%} of the {n} canary prompts were answered rightly"
    if reference is None or reference.get("set") != found.get("set"):
        return verdict("pass", score, None, f"{text}; there is no earlier run of this model to compare with.")
    pairs = list(zip(found["answer_hashes"], reference["answer_hashes"], strict=False))
    same = sum(mine == theirs for mine, theirs in pairs if mine is not None) / max(1, len(pairs))
    before = float(reference["score"])
    # One answer of 64 that tips over is no broken kernel.
    limit = before - max(CANARY_POINTS, 1.5 / max(1, n))
    text = f"{text} (reference run: {before:.0%}); {same:.0%} of the answers are the same, token for token."
    return verdict("void" if score < limit else "pass", score, limit, text)
