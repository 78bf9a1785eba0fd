"""What each request draws: times, length and fault, in order of arrival, from one seed.

Belongs here: one draw for each purpose and request, whether the answer needs it or not, so that request n
draws the same under every load. Does not belong here: what is made of the draws (``loop``, ``answers``).
"""

from __future__ import annotations

from typing import NamedTuple

from loadgen.truth.laws import child
from loadgen.truth.options import Behaviour


class Draw(NamedTuple):
    """Times in ms; ``service_ms`` ``None`` = the TTFT and gap decide; ``tokens`` = natural length, >= 1."""

    ttft_ms: float
    gap_ms: float
    service_ms: float | None
    tokens: int
    fault: str | None

    def paced(self, gaps: int) -> tuple[float, float]:
        """TTFT and gap in ms of an answer whose last token comes *gaps* gaps after its first."""
        if self.service_ms is None:
            return self.ttft_ms, self.gap_ms
        if gaps == 0:
            return self.service_ms, self.gap_ms
        ttft = min(self.ttft_ms, self.service_ms)
        return ttft, (self.service_ms - ttft) / gaps


class Draws:
    """The draws of one server's life."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._sources = {
            name: child(behaviour.seed, name) for name in ("ttft", "gap", "service", "length", "faults")
        }

    def next(self) -> Draw:
        """The draw of the next request."""
        behaviour, sources = self._behaviour, self._sources
        service = behaviour.service
        return Draw(
            behaviour.ttft.draw(sources["ttft"]),
            behaviour.gap.draw(sources["gap"]),
            None if service is None else service.draw(sources["service"]),
            max(1, round(behaviour.tokens.draw(sources["length"]))),
            self._fault(),
        )

    def _fault(self) -> str | None:
        at = self._sources["faults"].random()
        for name, share in self._behaviour.faults.items():
            if at < share:
                return name
            at -= share
        return None
