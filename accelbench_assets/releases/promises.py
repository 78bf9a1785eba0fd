"""What the looks of several sensors asked for and nobody can see as runs yet, so that one cap holds over all of them.

Belongs here: ``Promises``: one look decides at a time, and knows what the others have just taken.
Does not belong here: deciding (``follow``), runs and their estimates (``defs.sensors``).

A sensor hands its requests over only after its look has ended, and the runs come after that: three that look at the
same moment would each see the month's money untouched. All looks are made by one process (the code location's), so its
memory is where they can meet. What is lost with that process is caught by the budget ledger, which decides each launch
in the database.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

from accelbench_assets.releases.web import ReleaseError


@dataclass(frozen=True, slots=True)
class Promise:
    """One run that was asked for: its partition, the release's reference, and its estimate in US dollars."""

    partition_key: str
    ref: str
    usd: Decimal


class Promises:
    """Promises of each sensor's last look, by the lake (*place*) they are for. Safe to use from several threads.

    Who does not come to its turn within *longest_s* seconds looks again later (``ReleaseError``): Dagster gives a look
    one minute, and what is decided after that would be asked for by nobody.
    """

    def __init__(self, longest_s: float = 20.0) -> None:
        self._turn, self._longest_s = threading.Lock(), longest_s
        self._made: dict[tuple[str, str], tuple[Promise, ...]] = {}

    def forget(self, place: str, who: str) -> None:
        """The sensor *who* begins its next look: Dagster has made the runs of its last one by now, or dropped them."""
        self._made.pop((place, who), None)

    @contextmanager
    def turn(self, place: str, who: str) -> Iterator[Turn]:
        """Decide alone: nobody else is between reading what is left of a cap and taking from it."""
        if not self._turn.acquire(timeout=self._longest_s):
            raise ReleaseError(
                "Another sensor is still handing its cells over: the next look comes by itself."
            )
        try:
            made = tuple(self._made.items())
            turn = Turn(
                tuple(one for at, all_of in made if at[0] == place and at[1] != who for one in all_of)
            )
            yield turn
            self._made[place, who] = turn.made
        finally:
            self._turn.release()


class Turn:
    """One decision: what the others hold, and what was taken; an error in it takes nothing."""

    def __init__(self, others: tuple[Promise, ...]) -> None:
        self.others = others
        self.made: tuple[Promise, ...] = ()

    def take(self, promises: Iterable[Promise]) -> None:
        """These are asked for."""
        self.made = (*self.made, *promises)
