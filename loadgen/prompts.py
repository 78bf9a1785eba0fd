"""Random words and the encoded body around a prompt.

Belongs here: text of random common English words by index from a seed, the unique nonce, the JSON body.
Index *i* of a seed is always the same prompt, and making one is a handful of slices, so a closed loop never
runs out of requests and never waits for one.
Does not belong here: how many words a token is worth (``calibrate``), the other kinds of text
(``contents``), when a request is sent (``client``).

The words were chosen so that common vocabularies hold each as one token; text made of them is not natural
language, and results from it about speculative decoding or expert routing are synthetic ones.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from loadgen.schedule import child_seed

NONCE_WORDS = 16  # 596 words to the power of 16: no two prompts of a benchmark share a prefix block
_CORPUS_WORDS = 16_384
_PICKS = struct.Struct(f">{NONCE_WORDS}H")
_MARK = "\x00prompt\x00"


def words() -> tuple[str, ...]:
    """The packaged word list, in file order."""
    return tuple((Path(__file__).parent / "words.txt").read_text(encoding="ascii").split())


class PromptSource:
    """Prompts of *n_words* words, or of up to so many, by index: a nonce of up to 16 words, then a slice of
    a shuffled corpus."""

    def __init__(self, seed: int, n_words: int) -> None:
        if n_words < 1:
            raise ValueError("a prompt needs at least one word")
        self.seed, self.n_words = seed, n_words
        self._words = [word.encode() for word in words()]
        draw = random.Random(child_seed(seed, "corpus")).random
        count = len(self._words)
        corpus = [
            self._words[int(draw() * count)] for _ in range(_CORPUS_WORDS + max(0, n_words - NONCE_WORDS))
        ]
        self._text = b" ".join(corpus) + b" "
        self._starts = array("I", accumulate(map((1).__add__, map(len, corpus)), initial=0))
        self._salt = seed.to_bytes(16, "big", signed=True)

    def text(self, index: int, n_words: int | None = None) -> bytes:
        """The prompt of one index, ASCII words joined by single spaces; *n_words* at most the source's."""
        digest = hashlib.blake2b(self._salt + index.to_bytes(8, "big", signed=True)).digest()
        wanted = self.n_words if n_words is None else n_words
        listed, count = self._words, len(self._words)
        nonce = b" ".join([listed[pick % count] for pick in _PICKS.unpack_from(digest)[:wanted]])
        if wanted <= NONCE_WORDS:
            return nonce
        start = int.from_bytes(digest[32:40], "big") % _CORPUS_WORDS
        return nonce + b" " + self._text[self._starts[start] : self._starts[start + wanted - NONCE_WORDS] - 1]

    def nonce(self, index: int) -> bytes:
        """The 16 words every prompt of this index begins with."""
        return self.text(index, NONCE_WORDS)


def body_fields(
    api: str,
    model: str,
    *,
    max_tokens: int,
    ignore_eos: bool,
    stream: bool,
    sampling: Mapping[str, float] | None = None,
    response_format: Mapping[str, Any] | None = None,
    messages: bool = False,
) -> dict[str, Any]:
    """The request body without its prompt: greedy decoding unless *sampling* says otherwise, and a fixed
    answer length where *ignore_eos* is set. With *messages* a whole list of messages will be filled in."""
    fields: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0,
        "top_p": 1,
        "stream": stream,
        **(sampling or {}),
    }
    if ignore_eos:
        fields |= {"ignore_eos": True, "min_tokens": max_tokens}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    if response_format is not None:
        fields["response_format"] = response_format
    if api != "chat":
        fields["prompt"] = _MARK
    else:
        fields["messages"] = _MARK if messages else [{"role": "user", "content": _MARK}]
    return fields


@dataclass(frozen=True, slots=True)
class BodyTemplate:
    """A JSON body cut where the prompt goes."""

    before: bytes
    after: bytes

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> BodyTemplate:
        """Encode *fields* once; they hold the mark of :func:`body_fields`."""
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        mark = json.dumps(_MARK)
        before, after = text.split(mark if fields.get("messages") == _MARK else mark[1:-1])
        return cls(before.encode(), after.encode())

    def fill(self, prompt: bytes) -> bytes:
        """The body for *prompt*: text as it stands between JSON quotes (random words need no escaping), or an
        encoded list of messages."""
        return self.before + prompt + self.after
