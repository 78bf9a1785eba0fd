"""What the server makes of our words, asked of the server itself before the clock starts.

Belongs here: a few short requests that tell how many tokens a word of each text is worth, whether the server
keeps answers at a fixed length, and how long an answer lives. Does not belong here: the steps' requests
(``source``), the arithmetic (``sizing``). The rows of these requests are kept, with phase ``calibration``.

With prompt_tokens = template + words x tokens_per_word, two prompt lengths give both (rule M19); natural text
takes one more, and a further request checks the result on a prompt of the final size where that costs little.
Whether ``ignore_eos`` works (rule M15) is seen on a question with a short natural answer, asked again for
twice its length. Prompts here depend on the plan's seed alone, so that every shard finds the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from loadgen.client import Client
from loadgen.contents import content
from loadgen.control import Control, RunError
from loadgen.corpus import escaped, packaged
from loadgen.decode import Answer, decode
from loadgen.exchange import Exchange, Request
from loadgen.plan import Plan
from loadgen.prompts import BodyTemplate, PromptSource, body_fields
from loadgen.schedule import child_seed
from loadgen.sizing import Sizing
from loadgen.workloads import Workload

_SIZES = (16, 64)
_NATURAL_WORDS, _PIECE_WORDS = (160, 8000), 20
_CHECK_UP_TO_TOKENS = 1024
_PROBE, _PROBE_TOKENS = b"Reply with the single word yes.", 24
_LIVES = 3
_POLL_S = 0.02
_RANDOM_TEXTS = ("random-words", "block-hash")
_SIZED_TEXTS = ("random-words", "natural", "documents", "schema")


@dataclass(frozen=True, slots=True)
class Calibration:
    """``n_words`` for the wished (or mean) length; ``input_tokens`` is what the checking request had, if there
    was one."""

    tokens_per_word: float
    template_tokens: float
    n_words: int
    input_tokens: int | None


@dataclass(slots=True)
class CalibrationResult:
    """The calibration (``None``: the server counts no tokens), the requests made for it, warnings, and what
    was found besides: ``supports_ignore_eos`` is true, false, unknown, or ``None`` where it does not matter."""

    calibration: Calibration | None
    n_words: int
    answers: list[tuple[Exchange, Answer]]
    sizing: Sizing = field(default_factory=Sizing)
    warnings: list[str] = field(default_factory=list)
    supports_ignore_eos: str | None = None
    expected_life_ms: float | None = None

    @property
    def warning(self) -> str | None:
        """All warnings in one text."""
        return "; ".join(self.warnings) or None

    def record(self) -> dict[str, Any] | None:
        """What ``shard.json`` keeps of it."""
        found = self.calibration
        if found is None:
            return None
        return {
            "tokens_per_word": found.tokens_per_word,
            "template_tokens": found.template_tokens,
            "n_words": found.n_words,
            "input_tokens": found.input_tokens,
            "tokens_per_natural_word": self.sizing.natural,
            "supports_ignore_eos": self.supports_ignore_eos,
            "expected_life_ms": self.expected_life_ms,
        }


def calibrate(plan: Plan, workload: Workload, client: Client, control: Control) -> CalibrationResult:
    """Ask the first replica; raises ``RunError`` when it does not answer a one-token request properly."""
    return _Calibrator(plan, workload, client, control).run()


class _Calibrator:
    def __init__(self, plan: Plan, workload: Workload, client: Client, control: Control) -> None:
        self.plan, self.workload, self.client, self.control = plan, workload, client, control
        self.result = CalibrationResult(None, workload.isl, [], Sizing())

    def run(self) -> CalibrationResult:
        result = self.result
        counts = [self._tokens(self._random(size)) for size in _SIZES]
        per_word = ((counts[1] or 0) - (counts[0] or 0)) / (_SIZES[1] - _SIZES[0])
        if counts[0] is None or counts[1] is None:
            result.warnings.append(
                "the server reports no prompt_tokens; each word was taken for one input token"
            )
        elif per_word <= 0:
            result.warnings.append(
                f"prompt_tokens did not grow with the prompt ({counts}); each word was taken for one input token"
            )
        else:
            self._lengths(per_word, counts[0] - per_word * _SIZES[0])
        if self.workload.ignore_eos and self.workload.osl > 1:
            self._probe_ignore_eos()
        if self.workload.cancel is not None:
            self._measure_life()
        return result

    def _lengths(self, per_word: float, template: float) -> None:
        """The sizing of this server, checked once where the length is one and short."""
        workload, result = self.workload, self.result
        natural = per_word
        if workload.text not in _RANDOM_TEXTS and workload.lengths.isl.kind != "natural":
            n_words = min(_NATURAL_WORDS[1], max(_NATURAL_WORDS[0], round(workload.lengths.isl.mean / 4)))
            n_words -= n_words % _PIECE_WORDS
            text = self._random(_SIZES[0]) + b"\n" + self._sample(n_words)
            seen = self._tokens(escaped(text))
            if seen is not None and seen > template + per_word * _SIZES[0]:
                natural = (seen - template - per_word * _SIZES[0]) / n_words
        result.sizing = Sizing(per_word, natural, template)
        isl = workload.lengths.isl
        wished = round(isl.mean)
        checked: int | None = None
        if isl.kind == "const" and wished <= _CHECK_UP_TO_TOKENS and workload.text in _SIZED_TEXTS:
            checked = self._check(wished)
        words = result.sizing.random_words(wished)
        if workload.text not in _RANDOM_TEXTS:
            words = result.sizing.natural_words(wished, nonce=workload.cache == "cold")
        result.n_words = words
        result.calibration = Calibration(per_word, template, words, checked)
        if isl.kind != "natural" and not isl.of_trace and template + per_word > wished:
            result.warnings.append(
                f"the chat template takes {template:.0f} tokens: inputs will be longer than {wished}"
            )

    def _check(self, wished: int) -> int | None:
        """A prompt of the final size. Random words it is off by correct all others; a passage of natural text
        has its own share of long words and says nothing about the next."""
        sizing = self.result.sizing
        seed = child_seed(self.plan.seed, "calibration-check")
        prompt = content(self.workload, seed, sizing, rows=None, trace=None).prompt(0, wished)
        seen = self._tokens(escaped(prompt.text))
        if seen is not None and seen != wished and self.workload.text in _RANDOM_TEXTS:
            extra = round((wished - seen) / sizing.random)
            self.result.sizing = Sizing(sizing.random, sizing.natural, sizing.template, extra)
        return seen

    def _probe_ignore_eos(self) -> None:
        """M15: a short natural answer asked for at twice its length."""
        found, first = "unknown", self._ask(_PROBE, _PROBE_TOKENS, ignore_eos=False)
        natural = first.output_tokens  # a failure leaves it unknown
        if natural is not None and (natural < _PROBE_TOKENS or first.finish_reason == "stop"):
            wished = 2 * max(2, natural)
            answer = self._ask(_PROBE, wished, ignore_eos=True)
            if answer.output_tokens is not None:
                found = "true" if answer.output_tokens == wished else "false"
                if found == "false":
                    self.result.warnings.append(
                        f"the server made {answer.output_tokens} tokens of the {wished} asked for with ignore_eos and "
                        "min_tokens: answers of this profile will be too short and void it; use one of natural length"
                    )
        self.result.supports_ignore_eos = found

    def _measure_life(self) -> None:
        """The median time of whole answers on the idle server, for planned cancellations."""
        seed = child_seed(self.plan.seed, "calibration-life")
        osl, lives = self.workload.osl, []
        for index in range(_LIVES):
            prompt = (
                self._random(64)
                if self.workload.text in _RANDOM_TEXTS
                else packaged().words(seed + index, 64)
            )
            self._ask(escaped(prompt), osl, ignore_eos=self.workload.ignore_eos)
            exchange, answer = self.result.answers[-1]
            if answer.status == "ok":
                lives.append((exchange.end_ns - exchange.sent_ns) / 1e6)
        self.result.expected_life_ms = sorted(lives)[len(lives) // 2] if lives else None

    def _sample(self, n_words: int) -> bytes:
        """About *n_words* of the corpus in short pieces from all over it, so that no one passage decides."""
        source, pieces = packaged(), n_words // _PIECE_WORDS
        start = int(child_seed(self.plan.seed, "calibration-passage") % source.n_words)
        places = [start + source.n_words * k // pieces for k in range(pieces)]
        return b" ".join(source.words(place, _PIECE_WORDS) for place in places)

    def _random(self, n_words: int) -> bytes:
        seed = child_seed(self.plan.seed, "calibration", len(self.result.answers))
        return PromptSource(seed, n_words).text(0)

    def _tokens(self, prompt: bytes) -> int | None:
        return self._ask(prompt, 1, ignore_eos=True).input_tokens

    def _ask(self, prompt: bytes, max_tokens: int, *, ignore_eos: bool) -> Answer:
        plan, client, seq = self.plan, self.client, len(self.result.answers)
        model = (plan.models or (plan.model,))[0]
        fields = body_fields(
            plan.api, model, max_tokens=max_tokens, ignore_eos=ignore_eos, stream=plan.stream
        )
        ident = f"{plan.run_id}-{plan.shard}-calibration-{seq}"
        wished = 1 if max_tokens == 1 else None
        request = Request(seq, ident, BodyTemplate.of(fields).fill(prompt), prompt, None, wished)
        exchange = Exchange(request, plan.replicas[0], plan.stream)
        client.submit(exchange)
        while not client.done:
            client.poll(_POLL_S)
            client.sweep(time.perf_counter_ns())
            if (reason := self.control.stop_reason()) is not None:
                raise RunError(reason)
        client.done.clear()
        answer = decode(exchange)
        self.result.answers.append((exchange, answer))
        if max_tokens == 1 and answer.status not in ("ok", "incomplete") and answer.error_class != "empty":
            server = exchange.replica.base_url
            raise RunError(
                f"The server at {server} did not answer a first one-token request: {answer.error_text}."
            )
        return answer
