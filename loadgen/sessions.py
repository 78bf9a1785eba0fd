"""Sessions: conversations whose next turn starts a think time after the last answer.

Belongs here: what a user (or an agent's tool loop) says at each turn, how long it thinks, the history that
goes along with the answers that really came. Does not belong here: when the first turns arrive
(``schedule``), sending (``steps``).

Turn texts, numbers of turns and think times are functions of seed, session and turn. The history is not: it
holds the server's own answers (rule M26), so that a prefix cache sees what it would see in use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadgen.contents import Content
from loadgen.lengths import normal, uniforms
from loadgen.schedule import NS, child_seed
from loadgen.sizing import Sizing

if TYPE_CHECKING:
    from loadgen.datasets.requests import RequestFile
    from loadgen.workloads import Workload
    from loadgen.workloads.checks import Sessions

_TOOLS = ("read_file", "search", "run_tests", "list_folder", "fetch_page", "query_database")
_AGENT = (
    "You are working on a task with tools. Each turn you receive what the last tool returned. Decide on the next "
    "step, say in a few sentences why, and name one tool and its argument. The tools are "
    + ", ".join(_TOOLS)
    + ". The files so far:"
)
_FOLLOW_UPS = (
    "Can you go on from there, and take this into account?",
    "I am not sure about that. What about the following?",
    "Thanks. Please shorten it, and then consider this:",
    "How would you explain that to somebody who wrote this?",
    "Give an example that fits these words:",
    "And how does it change if one adds this?",
)


@dataclass(slots=True)
class Session:
    """A conversation under way. ``turn`` counts from 0; ``tokens`` is its context as the server counted it."""

    number: int
    turns: int
    turn: int = 0
    tokens: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)


class Talk(Content):
    """The turns of all sessions of a step."""

    def __init__(
        self, workload: Workload, seed: int, sizing: Sizing, rows: RequestFile | None, shape: Sessions
    ) -> None:
        super().__init__(workload, seed, sizing, 16)
        self.cold = True  # a session starts cold whatever it reuses of itself later
        self.shape, self._tools, self._first = shape, workload.text == "tool-loop", workload.lengths.isl
        self._rows = rows
        self._seeds = {name: child_seed(seed, name) for name in ("turns", "think", "order", "turn_lengths")}

    def start(self, number: int) -> Session:
        """Session *number* with its first message."""
        session = Session(number, self._turns(number))
        session.messages.append({"role": "user", "content": self.says(number, 0)})
        return session

    def _turns(self, number: int) -> int:
        drawn = self.shape.turns.draw(*uniforms(self._seeds["turns"], number, 2))
        return drawn if self._rows is None else min(drawn, len(self._own(number)))

    def _own(self, number: int) -> list[str]:
        assert self._rows is not None
        return self._rows.turns(int(uniforms(self._seeds["order"], number, 1)[0] * len(self._rows)))

    def wished(self, number: int, turn: int) -> int:
        """Tokens of a turn's own text: the first as the profile's ``isl``, later ones as ``turn_tokens``."""
        draws = uniforms(child_seed(self._seeds["turn_lengths"], "turn", turn), number, 2)
        return (self._first if turn == 0 else self.shape.turn_tokens).draw(*draws)

    def says(self, number: int, turn: int) -> str:
        """The user's words in a turn."""
        opening = self.opening(number).decode() if turn == 0 else ""
        if self._rows is not None:
            return opening + self._own(number)[turn]
        wished = self.wished(number, turn)
        which = uniforms(child_seed(self.seed, "turn", turn), number, 2)
        if self._tools:
            tool = _TOOLS[int(which[0] * len(_TOOLS))]
            frame = (
                _AGENT
                if turn == 0
                else f"Tool {tool} returned, exit status 0, in {1 + int(which[1] * 900)} ms:"
            )
        else:
            frame = "" if turn == 0 else _FOLLOW_UPS[int(which[0] * len(_FOLLOW_UPS))]
        words = self.own_words(wished) if turn == 0 else round(wished / self.sizing.natural)
        words = max(4, words - len(frame.split()))
        return opening + (frame + "\n" if frame else "") + self.passage(number, words, part=turn).decode()

    def go_on(self, session: Session, answer: str, tokens: int | None) -> bool:
        """Add the *answer* that came and the next turn; ``False`` when the session is over. *tokens* is the
        context with that answer as the server counted it (``None``: estimated from the words)."""
        session.turn += 1
        session.messages.append({"role": "assistant", "content": answer or "(no answer)"})
        if session.turn >= session.turns:
            return False
        says = self.says(session.number, session.turn)
        session.messages.append({"role": "user", "content": says})
        if tokens is None:
            tokens = round(sum(len(m["content"].split()) for m in session.messages) * self.sizing.natural)
        session.tokens = tokens
        return tokens + round(len(says.split()) * self.sizing.natural) <= self.shape.context_tokens

    def think_ns(self, number: int, turn: int) -> int:
        """Time between the end of an answer and *turn*, log-normal."""
        z = normal(*uniforms(child_seed(self._seeds["think"], "turn", turn), number, 2))
        return round(
            min(self.shape.think_cap_s, math.exp(self.shape.think_mu + self.shape.think_sigma * z)) * NS
        )
