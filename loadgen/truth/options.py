"""How the ground-truth server behaves: its options, from the command line to one record.

Belongs here: flags, their text forms, what they exclude. Does not belong here: sockets (``loop``), bytes
(``answers``), what a request draws (``draws``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeVar

from loadgen.truth.laws import KINDS, Law, form

FAULTS = ("500", "429", "reset", "hang", "stall", "error_event", "malformed", "short")
FRAMINGS = ("whole", "bytewise", "split", "crlf", "comments", "multiline", "no-final-blank")
REASONING_FIELDS = ("reasoning_content", "reasoning", "both")
METRICS_STYLES = ("truth", "vllm", "llamacpp")
CUT_FRAMINGS = ("bytewise", "split")  # an event is more than one write
_Value = TypeVar("_Value")


class Layout(NamedTuple):
    """Where the role stands: ``plain`` (nowhere), ``role-first`` (own chunk, with the head),
    ``role-with-token`` (own chunk, with the first token), ``role-early`` (own chunk, at ``role_ms``)."""

    kind: str
    role_ms: float = 0.0


class UsageStyle(NamedTuple):
    """``final``, ``every`` chunk, ``never``, or ``late`` by ``late_ms`` after the last token."""

    kind: str
    late_ms: float = 0.0


class Reasoning(NamedTuple):
    """The first ``tokens`` go out in ``field``; visible content begins at ``content_ms`` if given."""

    field: str
    tokens: int
    content_ms: float | None = None


class PrefixCache(NamedTuple):
    """Room for so many words, kept in blocks of so many."""

    words: int
    block: int = 16


ROLE_FIRST, USAGE_FINAL = Layout("role-first"), UsageStyle("final")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Times in ms. ``slots`` 0 = no limit. ``freeze_s`` (start, duration) counts from the first completion
    request. ``models`` empty = any name is served. ``null`` = no pacing at all."""

    ttft: Law = field(default_factory=lambda: Law.parse("50"))
    gap: Law = field(default_factory=lambda: Law.parse("10"))
    service: Law | None = None
    tokens: Law = field(default_factory=lambda: Law.parse("64"))
    null: bool = False
    slots: int = 0
    seed: int = 0
    tokens_per_chunk: int = 1
    events_per_write: int = 1
    chunk_layout: Layout = ROLE_FIRST
    usage: UsageStyle = USAGE_FINAL
    framing: str = "whole"
    text: str = "ascii"
    reasoning: Reasoning | None = None
    empty_token: int | None = None
    connection: str = "keep-alive"
    faults: dict[str, float] = field(default_factory=dict)
    freeze_s: tuple[float, float] | None = None
    prefix_cache: PrefixCache | None = None
    max_model_len: int = 1_048_576
    kv_tokens: int = 1_048_576
    metrics_style: str = "truth"
    models: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


def parse_faults(text: str) -> dict[str, float]:
    """``500:0.03,reset:0.02`` to shares; raises ``argparse.ArgumentTypeError`` naming the part."""
    result: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, share = part.partition(":")
        try:
            result[name] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not name:share") from None
        if name not in FAULTS or not 0 <= result[name] <= 1:
            raise argparse.ArgumentTypeError(
                f"{part!r}: a fault is one of {', '.join(FAULTS)}, its share 0..1"
            )
    if sum(result.values()) > 1 + 1e-9:
        raise argparse.ArgumentTypeError("the shares exceed 1")
    return result


def parse_freeze(text: str) -> tuple[float, float]:
    """``start:duration`` in seconds."""
    return _shape(
        text, "START:SECONDS, neither negative", lambda start, duration: (_amount(start), _amount(duration))
    )


def parse_layout(text: str) -> Layout:
    """``plain``, ``role-first``, ``role-with-token`` or ``role-early:MS``."""
    if text in ("plain", "role-first", "role-with-token"):
        return Layout(text)
    wanted = "plain, role-first, role-with-token or role-early:MS"
    return _shape(text, wanted, lambda name, at: Layout(_one_of(name, "role-early"), _amount(at)))


def parse_usage(text: str) -> UsageStyle:
    """``final``, ``every``, ``never`` or ``late:MS``."""
    if text in ("final", "every", "never"):
        return UsageStyle(text)
    return _shape(
        text,
        "final, every, never or late:MS",
        lambda name, by: UsageStyle(_one_of(name, "late"), _amount(by)),
    )


def parse_reasoning(text: str) -> Reasoning:
    """``field:K`` or ``field:K:MS``."""
    wanted = f"FIELD:K or FIELD:K:MS, the field one of {', '.join(REASONING_FIELDS)}"

    def make(name: str, tokens: str, at: str | None = None) -> Reasoning:
        return Reasoning(
            _one_of(name, *REASONING_FIELDS), _at_least(1)(tokens), None if at is None else _amount(at)
        )

    return _shape(text, wanted, make)


def parse_prefix_cache(text: str) -> PrefixCache:
    """``WORDS`` or ``WORDS:BLOCK``."""
    wanted = "WORDS or WORDS:BLOCK, both at least 1"
    return _shape(text, wanted, lambda *parts: PrefixCache(*map(_at_least(1), parts)))


def parse_header(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` of printable ASCII."""
    name, equals, value = text.partition("=")
    if not equals or not name.replace("-", "").isalnum() or not (name + value).isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE in ASCII")
    if not value.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r}: a header's value is printable")
    return name, value


def _shape(text: str, wanted: str, make: Callable[..., _Value]) -> _Value:
    try:
        return make(*text.split(":"))
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None


def _one_of(text: str, *names: str) -> str:
    if text not in names:
        raise ValueError(text)
    return text


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError(text)
    return value


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _law(text: str) -> Law:
    try:
        return Law.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


_LAWS = "LAW is a number or one of:\n" + "\n".join(
    f"  {form(name):<24} {kind.meaning}" for name, kind in KINDS.items()
)


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m loadgen truth``."""
    result = _Parser(
        prog="python -m loadgen truth",
        description="The ground-truth server: speaks the OpenAI API without a model, answers on an absolute\n"
        "schedule, and logs what it really sent. Its first line of output is JSON with its URL.",
        epilog=f"{_LAWS}\n\nDraws come from the seed in order of arrival, each purpose from a generator of its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument_group("where").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=_port, default=0, help="port to listen on; 0 takes a free one (0)")
    add("--model", action="append", default=[], dest="models", metavar="NAME",
        help="serve only this model, again for more; without it any name is served")  # fmt: skip
    add("--log", metavar="FILE", help="write a JSON line for each request, CLOCK_MONOTONIC nanoseconds")
    add("--exit-with-parent", action="store_true", help="exit when standard input ends")

    add = result.add_argument_group("time").add_argument
    add("--ttft", "--ttft-ms", type=_law, default="50", metavar="LAW",
        help="ms from the start of service to the first token, one draw a request (50)")  # fmt: skip
    add("--gap", "--gap-ms", type=_law, default="10", metavar="LAW",
        help="ms between tokens, one draw a request; a chunk of k tokens takes k gaps (10)")  # fmt: skip
    add("--service", type=_law, metavar="LAW",
        help="ms from the start of service to the last token; it sets the gap, and the TTFT of one chunk")  # fmt: skip
    add("--null", action="store_true", help="no pacing: every answer as fast as it can be sent")
    add("--slots", type=_at_least(0), default=0, metavar="K",
        help="requests served at a time, first come first served; 0 = no limit (0)")  # fmt: skip
    add("--freeze", type=parse_freeze, dest="freeze_s", metavar="START:SECONDS",
        help="send nothing for a while; counts from the first request")  # fmt: skip
    add("--seed", type=int, default=0, help="of all draws (0)")

    add = result.add_argument_group("answers").add_argument
    add("--tokens", type=_law, default="64", metavar="LAW",
        help="length at which an answer stops by itself, unless ignore_eos is set (64)")  # fmt: skip
    add("--tokens-per-chunk", type=_at_least(1), default=1, metavar="K", help="tokens in an event (1)")
    add("--events-per-write", type=_at_least(1), default=1, metavar="N",
        help="hold events back until N are ready, as a buffering proxy does; the first goes alone (1)")  # fmt: skip
    add("--chunk-layout", type=parse_layout, default="role-first", metavar="LAYOUT",
        help="role-first: a role-only chunk with the head; role-with-token: just before the first token;"
        " role-early:MS: so long after service began; plain: none (role-first)")  # fmt: skip
    add("--usage", type=parse_usage, default="final", metavar="STYLE",
        help="final chunk, every chunk, never, or late:MS after the last token (final)")  # fmt: skip
    add("--framing", choices=FRAMINGS, default="whole",
        help="how events are written: whole, byte by byte, split within characters and chunks, CRLF line ends,"
        " with comments, data over several lines, or no blank line at the end (whole)")  # fmt: skip
    add("--text", choices=("ascii", "unicode"), default=None,
        help="unicode: words of 2 to 4 byte characters and U+2028 (ascii; unicode with --framing split)")  # fmt: skip
    add("--reasoning", type=parse_reasoning, metavar="FIELD:K[:MS]",
        help="send the first K tokens in reasoning_content, reasoning or both; content begins at MS")  # fmt: skip
    add(
        "--empty-token", type=_at_least(0), metavar="K", help="token K (from 0) is a chunk with empty content"
    )
    add("--connection", choices=("keep-alive", "close", "drop"), default="keep-alive",
        help="after an answer; drop: announce keep-alive and close (keep-alive)")  # fmt: skip
    add("--header", type=parse_header, action="append", default=[], dest="headers", metavar="NAME=VALUE",
        help="send this header with every response; repeatable")  # fmt: skip

    add = result.add_argument_group("faults and figures").add_argument
    add("--faults", type=parse_faults, default={}, metavar="NAME:SHARE,...",
        help=f"shares of requests that meet a fault: {', '.join(FAULTS)}")  # fmt: skip
    add("--prefix-cache", type=parse_prefix_cache, metavar="WORDS[:BLOCK]",
        help="keep so many words of prompts and answers, report cached_tokens; blocks of 16 words")  # fmt: skip
    add("--max-model-len", type=_at_least(1), default=Behaviour().max_model_len, metavar="N",
        help="refuse a prompt and answer of more tokens (1048576)")  # fmt: skip
    add("--kv-tokens", type=_at_least(1), default=Behaviour().kv_tokens, metavar="N",
        help="the tokens that count as a full KV cache in /metrics (1048576)")  # fmt: skip
    add("--metrics-style", choices=METRICS_STYLES, default="truth", help="names used by /metrics (truth)")
    return result


class Place(NamedTuple):
    """Where the server listens and logs."""

    host: str
    port: int
    log: str | None
    exit_with_parent: bool


def read(argv: Sequence[str]) -> tuple[Behaviour, Place]:
    """The options in *argv*; prints one sentence and exits with 2 if they are wrong."""
    commands = parser()
    given = vars(commands.parse_args(argv))
    if given["null"]:
        paced = {"--ttft", "--ttft-ms", "--gap", "--gap-ms", "--service", "--freeze"}
        named = [flag for flag in (one.partition("=")[0] for one in argv) if flag in paced]
        if named:
            commands.error(f"--null sends without pacing; leave out {named[0]}")
    if given["events_per_write"] > 1 and given["framing"] in CUT_FRAMINGS:
        commands.error(
            f"--events-per-write: --framing {given['framing']} writes less than an event at a time"
        )
    given["text"] = given["text"] or ("unicode" if given["framing"] == "split" else "ascii")
    given["models"], given["headers"] = tuple(given["models"]), tuple(given["headers"])
    place = Place(*(given.pop(name) for name in Place._fields))
    return Behaviour(**given), place
