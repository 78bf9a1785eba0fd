"""How many tokens the server makes of our words, asked of the server itself before the clock starts.

Belongs here: a few one-token requests of known word counts, and the word count for the wished input length.
Does not belong here: the steps' requests (``source``). The rows of these requests are kept, with phase
``calibration``.

With prompt_tokens = template + words x tokens_per_word, two prompt lengths give both; a third request
checks the result on a prompt of the final size where that costs little.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from loadgen.client import Client
from loadgen.control import Control, RunError
from loadgen.decode import Answer, decode
from loadgen.exchange import Exchange, Request
from loadgen.plan import Plan
from loadgen.prompts import BodyTemplate, PromptSource, body_fields
from loadgen.schedule import child_seed
from loadgen.workloads import Workload

_SIZES = (16, 64)
_CHECK_UP_TO_TOKENS = 1024
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Calibration:
    """``n_words`` for the wished length; ``input_tokens`` is what the checking request had, if there was
    one."""

    tokens_per_word: float
    template_tokens: float
    n_words: int
    input_tokens: int | None


@dataclass(slots=True)
class CalibrationResult:
    """The calibration (``None``: the server counts no tokens), the requests made for it, and a warning if
    any."""

    calibration: Calibration | None
    n_words: int
    answers: list[tuple[Exchange, Answer]]
    warning: str | None = None


def calibrate(plan: Plan, workload: Workload, client: Client, control: Control) -> CalibrationResult:
    """Ask the first replica; raises ``RunError`` when it does not answer a one-token request properly."""
    answers: list[tuple[Exchange, Answer]] = []
    counts: list[int] = []
    for size in _SIZES:
        tokens = _ask(plan, client, control, size, answers)
        if tokens is None:
            text = "the server reports no prompt_tokens; each word was taken for one input token"
            return CalibrationResult(None, workload.isl, answers, text)
        counts.append(tokens)
    per_word = (counts[1] - counts[0]) / (_SIZES[1] - _SIZES[0])
    if per_word <= 0:
        text = (
            f"prompt_tokens did not grow with the prompt ({counts}); each word was taken for one input token"
        )
        return CalibrationResult(None, workload.isl, answers, text)
    template = counts[0] - per_word * _SIZES[0]
    words = max(1, round((workload.isl - template) / per_word))
    seen: int | None = None
    if workload.isl <= _CHECK_UP_TO_TOKENS:
        seen = _ask(plan, client, control, words, answers)
        if seen is not None and seen != workload.isl:
            words = max(1, words + round((workload.isl - seen) / per_word))
    warning = None
    if template + per_word > workload.isl:
        warning = f"the chat template takes {template:.0f} tokens: inputs will be longer than {workload.isl}"
    return CalibrationResult(Calibration(per_word, template, words, seen), words, answers, warning)


def _ask(
    plan: Plan, client: Client, control: Control, n_words: int, answers: list[tuple[Exchange, Answer]]
) -> int | None:
    seq = len(answers)
    prompt = PromptSource(child_seed(plan.seed, "calibration", plan.shard, seq), n_words).text(0)
    fields = body_fields(plan.api, plan.model, max_tokens=1, ignore_eos=True, stream=plan.stream)
    ident = f"{plan.run_id}-{plan.shard}-calibration-{seq}"
    request = Request(seq, ident, BodyTemplate.of(fields).fill(prompt), prompt, None, 1)
    exchange = Exchange(request, plan.replicas[0], plan.stream)
    client.submit(exchange)
    while not client.done:
        client.poll(_POLL_S)
        client.sweep(time.perf_counter_ns())
        if (reason := control.stop_reason()) is not None:
            raise RunError(reason)
    client.done.clear()
    answer = decode(exchange)
    answers.append((exchange, answer))
    if answer.status not in ("ok", "incomplete") and answer.error_class != "empty":
        server = exchange.replica.base_url
        raise RunError(
            f"The server at {server} did not answer a first one-token request: {answer.error_text}."
        )
    return answer.input_tokens
