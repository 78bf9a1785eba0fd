"""What requests say: every kind of text of the profiles, by request index.

Belongs here: nonce, shared prefix and body of a prompt, for each kind of text. A prompt is a function of
seed and index alone. Does not belong here: lengths in tokens (``lengths``), words (``prompts``, ``corpus``),
turns of sessions (``sessions``), encoding a body (``source``).

With a cold cache 16 random words come first, unique to the request, so that no prefix can be reused. With a
shared one the prefix of the request's group comes first, and the unique words after it; prefixes depend on
the seed, so an earlier run leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from loadgen import corpus, templates
from loadgen.lengths import uniforms
from loadgen.prompts import PromptSource
from loadgen.schedule import child_seed
from loadgen.sizing import Sizing

if TYPE_CHECKING:
    from loadgen.datasets.requests import RequestFile
    from loadgen.datasets.traces import Trace
    from loadgen.workloads import Workload

BLOCK_TOKENS = 512  # of the published traces with block hashes
_DOCUMENT_WORDS = 900


@dataclass(slots=True)
class Prompt:
    """One request's words: ``text`` of a single user message, or ``messages`` as a whole. ``schema`` is the
    place of a JSON schema in ``templates.schemas()``; ``output_tokens`` an answer length of the row's own. ``plain``
    text holds nothing that JSON escapes."""

    text: bytes
    messages: list[dict[str, Any]] | None = None
    schema: int | None = None
    output_tokens: int | None = None
    plain: bool = False


def zipf(groups: int, exponent: float) -> Callable[[float], int]:
    """The group of a uniform on [0, 1): group r with weight ``1/(r+1)^exponent``."""
    mass = list(accumulate((rank + 1) ** -exponent for rank in range(groups)))
    return lambda at: next((k for k, limit in enumerate(mass) if at * mass[-1] < limit), groups - 1)


class Content:
    """Prompts of one step. :meth:`prompt` takes a request's index and its wished tokens (``None``: the text
    decides)."""

    def __init__(self, workload: Workload, seed: int, sizing: Sizing, longest: int) -> None:
        self.seed, self.sizing = seed, sizing
        self.cold = workload.cache == "cold"
        self.random = PromptSource(seed, sizing.random_words(longest) if workload.text in RANDOM else 16)
        self.prefix = workload.prefix
        if self.prefix is not None:
            self._group = zipf(self.prefix.groups, self.prefix.zipf)
            words = max(1, round(self.prefix.tokens / sizing.natural))
            self._prefixes = [self.passage(-1 - g, words, nonce=True) for g in range(self.prefix.groups)]
            self._group_seed = child_seed(seed, "order")

    def passage(self, index: int, words: int, *, nonce: bool = False, part: int = 0) -> bytes:
        """Natural words from a place in the corpus drawn for *index* and *part*."""
        source = corpus.packaged()
        start = int(uniforms(child_seed(self.seed, "passage", part), index, 1)[0] * source.n_words)
        text = source.words(start, words)
        return self.random.nonce(index) + b"\n" + text if nonce else text

    def opening(self, index: int) -> bytes:
        """What comes before a prompt's own text: the group's prefix and the unique words, as the cache asks."""
        parts = []
        if self.prefix is not None:
            parts.append(self._prefixes[self._group(uniforms(self._group_seed, index, 1)[0])])
        if self.cold or self.prefix is not None:
            parts.append(self.random.nonce(index))
        return b"".join(part + b"\n" for part in parts)

    def own_words(self, tokens: int) -> int:
        """Natural words that fill a prompt of *tokens* after its opening."""
        shared = 0 if self.prefix is None else self.prefix.tokens + 16 * self.sizing.random
        return self.sizing.natural_words(tokens - shared, nonce=self.cold or self.prefix is not None)

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """The prompt of request *index*."""
        raise ValueError("this content has no single prompts")


class RandomWords(Content):
    """Random words; the nonce is their beginning."""

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """See :class:`Content`."""
        wished = self.random.n_words if tokens is None else self.sizing.random_words(tokens)
        return Prompt(self.random.text(index, min(wished, self.random.n_words)), plain=True)


class Natural(Content):
    """A passage of the corpus."""

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """See :class:`Content`."""
        return Prompt(self.opening(index) + self.passage(index, self.own_words(tokens or 512)))


class Documents(Content):
    """Retrieved documents, the group's first, and a question about them."""

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """See :class:`Content`."""
        question = b"\nQuestion: " + templates.question(uniforms(self.seed, index, 8))
        left = self.own_words(tokens or 4096) - len(question.split())
        parts = [self.opening(index)]
        for part in range(1, 2 + max(0, left - 1) // _DOCUMENT_WORDS):
            words = min(_DOCUMENT_WORDS, left) - 2
            if words > 0:
                parts.append(b"\nDocument %d:\n" % part + self.passage(index, words, part=part))
            left -= _DOCUMENT_WORDS
        return Prompt(b"".join(parts) + question)


class Written(Content):
    """Instructions or problems from the packaged templates, as long as they are."""

    def __init__(self, workload: Workload, seed: int, sizing: Sizing, longest: int) -> None:
        super().__init__(workload, seed, sizing, longest)
        self._write = templates.problems if workload.text == "reasoning" else templates.instruction

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """See :class:`Content`."""
        return Prompt(self.opening(index) + self._write(self.seed, index))


class Structured(Content):
    """A passage and one of the packaged JSON schemas to fill from it."""

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """See :class:`Content`."""
        schema = int(uniforms(self.seed, index, 1)[0] * len(templates.schemas()))
        task = templates.extraction(schema)
        words = max(8, self.own_words(tokens or 512) - len(task.split()))
        return Prompt(self.opening(index) + task + b"\n" + self.passage(index, words), schema=schema)


class Blocks(Content):
    """Text from a trace's block hashes: equal hashes give equal blocks, so prefixes are shared as in the
    trace. A new round of the trace has blocks of its own."""

    def __init__(self, workload: Workload, seed: int, sizing: Sizing, trace: Trace) -> None:
        super().__init__(workload, seed, sizing, BLOCK_TOKENS)
        self._trace, self._words = trace, max(1, round(BLOCK_TOKENS / sizing.random))
        self.random = PromptSource(seed, self._words)

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """*index* is the place in the trace, through all rounds."""
        turn, row = divmod(index, len(self._trace))
        left, parts = self.sizing.random_words(tokens or self._trace.input_tokens[row]), []
        hashes = self._trace.hashes(row)
        # A row may lack its last hash.
        blocks = list(hashes) + [-1 - k for k in range(left // self._words + 1)]
        for position, block in enumerate(blocks):
            if left <= 0:
                break
            key = (
                block * 4096 + turn + 1 if position < len(hashes) else -(index * 4096 + position + 1) - 2**40
            )
            parts.append(self.random.text(key, min(left, self._words)))
            left -= self._words
        return Prompt(b" ".join(parts), plain=True)


class Rows(Content):
    """The user's own requests, each once in an order drawn from the seed, then all again in another."""

    def __init__(self, workload: Workload, seed: int, sizing: Sizing, rows: RequestFile) -> None:
        super().__init__(workload, seed, sizing, 16)
        self._rows = rows
        self._orders: dict[int, Sequence[int]] = {}
        self._order_seed = child_seed(seed, "order")

    def row(self, index: int) -> int:
        """The row of request *index*."""
        round_, place = divmod(index, len(self._rows))
        if round_ not in self._orders:
            self._orders = {round_: shuffled(len(self._rows), child_seed(self._order_seed, "round", round_))}
        return self._orders[round_][place]

    def prompt(self, index: int, tokens: int | None) -> Prompt:
        """See :class:`Content`."""
        messages, output_tokens = self._rows.read(self.row(index))
        opening = self.opening(index).decode()
        messages = [{**messages[0], "content": opening + messages[0]["content"]}, *messages[1:]]
        text = "\n".join(message["content"] for message in messages).encode()
        if len(messages) == 1 and messages[0]["role"] == "user":
            return Prompt(text, output_tokens=output_tokens)
        return Prompt(text, messages, output_tokens=output_tokens)


def shuffled(count: int, seed: int) -> Sequence[int]:
    """A permutation of ``range(count)`` (Fisher and Yates on guaranteed uniforms)."""
    import random
    from array import array

    draw, order = random.Random(seed).random, array("I", range(count))
    for last in range(count - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


RANDOM = ("random-words", "block-hash")
_KINDS: dict[str, type[Content]] = {
    "random-words": RandomWords,
    "natural": Natural,
    "documents": Documents,
    "instructions": Written,
    "reasoning": Written,
    "schema": Structured,
}


def content(
    workload: Workload, seed: int, sizing: Sizing, *, rows: RequestFile | None, trace: Trace | None
) -> Content:
    """The content of a step of *workload*, which is not one of sessions."""
    if workload.text == "dataset":
        assert rows is not None
        return Rows(workload, seed, sizing, rows)
    if workload.text == "block-hash":
        assert trace is not None
        return Blocks(workload, seed, sizing, trace)
    law = workload.lengths.isl
    longest = min(law.largest, max(trace.input_tokens)) if trace is not None and law.of_trace else law.largest
    return _KINDS[workload.text](workload, seed, sizing, longest)
