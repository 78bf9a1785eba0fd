"""What requests say: random common English words, a unique nonce first, and the encoded body around them.

Belongs here: prompt text by index from a seed, the JSON body, the HTTP head. Index *i* of a seed is always
the same prompt, and making one is a handful of slices, so a closed loop never runs out of requests and
never waits for one.
Does not belong here: how many words a token is worth (``calibrate``), when a request is sent (``client``).

The words were chosen so that common vocabularies hold each as one token; text made of them is not natural
language, and results from it about speculative decoding or expert routing are synthetic ones.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.schedule import child_seed

NONCE_WORDS = 16  # 596 words to the power of 16: no two prompts of a benchmark share a prefix block
_CORPUS_WORDS = 16_384
_MARK = "\x00prompt\x00"


def words() -> tuple[str, ...]:
    """The packaged word list, in file order."""
    return tuple((Path(__file__).parent / "words.txt").read_text(encoding="ascii").split())


class PromptSource:
    """Prompts of exactly *n_words* words, by index: a nonce of up to 16 words, then a slice of a shuffled
    corpus."""

    def __init__(self, seed: int, n_words: int) -> None:
        if n_words < 1:
            raise ValueError("a prompt needs at least one word")
        self.seed, self.n_words = seed, n_words
        self._words = [word.encode() for word in words()]
        self._body_words = max(0, n_words - NONCE_WORDS)
        draw = random.Random(child_seed(seed, "corpus")).random
        count = len(self._words)
        corpus = [self._words[int(draw() * count)] for _ in range(_CORPUS_WORDS + self._body_words)]
        self._text = b" ".join(corpus) + b" "
        self._starts = [0]
        for word in corpus:
            self._starts.append(self._starts[-1] + len(word) + 1)
        self._salt = seed.to_bytes(16, "big", signed=True)

    def text(self, index: int) -> bytes:
        """The prompt of one index, ASCII words joined by single spaces."""
        digest = hashlib.blake2b(self._salt + index.to_bytes(8, "big", signed=True)).digest()
        listed = self._words
        nonce = b" ".join(
            [listed[(digest[2 * k] << 8 | digest[2 * k + 1]) % len(listed)] for k in range(NONCE_WORDS)][
                : self.n_words
            ]
        )
        if not self._body_words:
            return nonce
        start = int.from_bytes(digest[32:40], "big") % _CORPUS_WORDS
        return nonce + b" " + self._text[self._starts[start] : self._starts[start + self._body_words] - 1]


def body_fields(api: str, model: str, *, max_tokens: int, ignore_eos: bool, stream: bool) -> dict[str, Any]:
    """The request body without its prompt: greedy decoding, and a fixed answer length where *ignore_eos* is
    set."""
    fields: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0,
        "top_p": 1,
        "stream": stream,
    }
    if ignore_eos:
        fields |= {"ignore_eos": True, "min_tokens": max_tokens}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    if api == "chat":
        fields["messages"] = [{"role": "user", "content": _MARK}]
    else:
        fields["prompt"] = _MARK
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
        before, after = text.split(json.dumps(_MARK)[1:-1])
        return cls(before.encode(), after.encode())

    def fill(self, prompt: bytes) -> bytes:
        """The body for *prompt*, which holds ASCII words and spaces only and needs no escaping."""
        return self.before + prompt + self.after
