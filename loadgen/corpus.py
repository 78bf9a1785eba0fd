"""Natural English text: slices of the packaged public-domain corpus by word offset, and escaping it for
JSON.

Belongs here: reading ``workloads/corpus.txt`` once, cutting words out of it. Does not belong here: which
slice a request gets (``contents``), random words (``prompts``). Sources and status: ``corpus.NOTICE.md``
beside the text.
"""

from __future__ import annotations

import json
from array import array
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

_PATH = Path(__file__).parent / "workloads" / "corpus.txt"


class Corpus:
    """Words of a text whose separators are single bytes. It reads as a ring: a slice may run over its end."""

    def __init__(self, text: bytes) -> None:
        words = text.split()
        self._text = text.strip() + b"\n"
        self.starts = array("I", accumulate(map((1).__add__, map(len, words)), initial=0))
        if self.starts[-1] != len(self._text):
            raise ValueError("corpus: words must be separated by single spaces or newlines")
        self.n_words = len(words)

    def words(self, start: int, count: int) -> bytes:
        """*count* words from word *start* on, as they stand in the text."""
        pieces, at = [], start % self.n_words
        while count > 0:
            take = min(count, self.n_words - at)
            pieces.append(self._text[self.starts[at] : self.starts[at + take]])
            count -= take
            at = 0
        return b"".join(pieces)[:-1]


@lru_cache(maxsize=1)
def packaged() -> Corpus:
    """The packaged corpus: about 137,000 words of addresses and of a novel, in turn."""
    return Corpus(_PATH.read_bytes())


def escaped(text: bytes) -> bytes:
    """UTF-8 *text* as it stands between the quotes of a JSON string."""
    return json.dumps(text.decode(), ensure_ascii=False)[1:-1].encode()
