"""A real prefix cache: which leading part of a prompt the server has seen before.

Belongs here: a trie of word blocks with a size, least recently used out first, as engines keep it.
Does not belong here: what a hit changes (only ``cached_tokens`` and the metrics do).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from loadgen.truth.options import PrefixCache

_Key = tuple[int, tuple[str, ...]]


class PrefixTrie:
    """Each node is a whole block of words below a parent node. A prompt's last word is never served from
    the cache, since an engine must run at least that."""

    def __init__(self, size: PrefixCache) -> None:
        self._block, self._room = size.block, max(1, size.words // size.block)
        self._nodes: OrderedDict[_Key, int] = OrderedDict()
        self._last = 0
        self.queries = self.hits = 0

    def look_up(self, words: Sequence[str]) -> int:
        """How many leading *words* are cached; counted in :attr:`queries` and :attr:`hits` (in words)."""
        found = self._walk(words[:-1])
        self._touch(found)
        self.queries += len(words)
        self.hits += len(found) * self._block
        return len(found) * self._block

    def add(self, words: Sequence[str]) -> None:
        """Keep *words*; a last part shorter than a block is not kept."""
        found = self._walk(words)
        parent = self._nodes[found[-1]] if found else 0
        for start in range(len(found) * self._block, len(words) - self._block + 1, self._block):
            key = (parent, tuple(words[start : start + self._block]))
            self._last += 1
            self._nodes[key] = parent = self._last
            found.append(key)
        self._touch(found)
        while len(self._nodes) > self._room:
            self._nodes.popitem(last=False)

    def _walk(self, words: Sequence[str]) -> list[_Key]:
        found: list[_Key] = []
        parent = 0
        for start in range(0, len(words) - self._block + 1, self._block):
            key = (parent, tuple(words[start : start + self._block]))
            child = self._nodes.get(key)
            if child is None:
                break
            found.append(key)
            parent = child
        return found

    def _touch(self, path: Sequence[_Key]) -> None:
        """Leaves go out before their parents: the root end is used last."""
        for key in reversed(path):
            self._nodes.move_to_end(key)
