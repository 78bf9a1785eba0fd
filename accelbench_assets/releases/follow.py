"""What follows from a release: cells to add, runs to ask for, and what waits or is left out and why.

Belongs here: ``follow``, a pure decision within caps. Does not belong here: looking (``pypi``, ``registry``,
``neuron``, ``hub``), the subjects' own rules (``subjects``), doing any of it (``defs.sensors``).

Rules. A subject seen for the first time is only noted. Of several new releases the newest is followed, and a newer one
ends what still waited for an older: money goes to what people would install today. Cells go in the order of the
suites; a cell is added together with its run's request, never before. What does not fit a cap waits in the cursor,
where what was asked for is remembered by cell, so nothing is asked for twice and a restart forgets nothing. A cell too
dear for what is left of the month does not hold up cheaper ones behind it; next month it is asked first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.releases.cursor import ID_DIGITS, SEEN_KEPT, Cursor, Pending, State, month_of
from accelbench_assets.releases.subjects import Subject, Variant, subject
from partitions.cell import BenchmarkCell, Deployment

EXAMPLES = 3
Estimate = Callable[[BenchmarkCell], Decimal]
"""Estimated US dollars of one run of a cell; raises ``AccelBenchError`` if nobody knows."""


@dataclass(frozen=True, slots=True)
class Found:
    """One subject's newest value at this look; ``identity`` names the artefact (a digest, a commit), ``ref`` is for
    people and records.
    """

    subject: str
    value: str
    identity: str
    ref: str


@dataclass(frozen=True, slots=True)
class Caps:
    """Runs a look and a month may ask for, and estimated US dollars a month and one run may cost."""

    runs_per_tick: int
    runs_per_month: int
    usd_per_month: Decimal
    usd_per_run: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Runs and estimated US dollars asked for in the current month."""

    runs: int = 0
    usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Request:
    """One run: its cell, the key under which it is asked for once and for ever, why, and its estimate in US dollars."""

    cell: BenchmarkCell
    run_key: str
    release: Found
    usd: Decimal


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Cells that were not taken for one reason; ``waits`` = they come when the reason is gone."""

    reason: str
    count: int
    examples: tuple[str, ...]
    waits: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done. In a dry run ``planned`` says what would be, ``new_cells`` and ``requests`` are empty."""

    planned: tuple[Request, ...]
    unregistered: tuple[BenchmarkCell, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    cursor: Cursor
    spent: Spent
    dry_run: bool

    @property
    def requests(self) -> tuple[Request, ...]:
        """The runs to ask for."""
        return () if self.dry_run else self.planned

    @property
    def new_cells(self) -> tuple[BenchmarkCell, ...]:
        """The cells to register, each with a run in ``requests``."""
        return () if self.dry_run else self.unregistered

    def sentences(self) -> list[str]:
        """Everything there is to say of this look, a line each."""
        would = "would be asked for (dry run)" if self.dry_run else "asked for"
        lines = [*self.notes]
        lines += [
            f"{r.cell.key_text}: {would}, about {r.usd:.2f} USD, for {r.release.ref}" for r in self.planned
        ]
        for left in self.left_out:
            more = "" if left.count <= len(left.examples) else ", …"
            verb = "waits" if left.waits else "left out"
            lines.append(f"{left.count} {verb}: {left.reason} ({', '.join(left.examples)}{more})")
        return lines


class _Tally:
    """Left-out cells by reason, without keeping thousands of names."""

    def __init__(self) -> None:
        self._by_reason: dict[tuple[str, bool], tuple[int, list[str]]] = {}

    def add(self, reason: str, name: str, *, waits: bool) -> None:
        count, names = self._by_reason.get((reason, waits), (0, []))
        if len(names) < EXAMPLES and name not in names:
            names.append(name)
        self._by_reason[reason, waits] = (count + 1, names)

    def all(self) -> tuple[LeftOut, ...]:
        return tuple(
            LeftOut(reason, count, tuple(names), waits)
            for (reason, waits), (count, names) in self._by_reason.items()
        )


class _Purse:
    """What the caps leave, and what is taken from it."""

    def __init__(self, caps: Caps, spent: Spent, estimate: Estimate) -> None:
        self._caps, self._estimate = caps, estimate
        self.spent, self.taken = spent, 0

    def full(self) -> str | None:
        """Why no run at all fits any more."""
        if self.taken >= self._caps.runs_per_tick:
            return f"at most {self._caps.runs_per_tick} runs a look"
        if self.spent.runs >= self._caps.runs_per_month:
            return f"at most {self._caps.runs_per_month} runs a month"
        return None

    def take(self, cell: BenchmarkCell) -> Decimal | str:
        """The estimate of *cell*, taken from the caps, or why it does not fit."""
        try:
            usd = self._estimate(cell)
        except AccelBenchError as error:
            return error.message
        if self._caps.usd_per_run is not None and usd > self._caps.usd_per_run:
            return f"dearer than the {self._caps.usd_per_run} USD a run may cost"
        if self.spent.usd + usd > self._caps.usd_per_month:
            return f"more than is left of {self._caps.usd_per_month} USD a month"
        self.taken += 1
        self.spent = Spent(self.spent.runs + 1, self.spent.usd + usd)
        return usd


def follow(
    cells: Sequence[BenchmarkCell],
    found: Sequence[Found],
    cursor: Cursor | None,
    *,
    registered: Callable[[BenchmarkCell], bool],
    caps: Caps,
    estimate: Estimate,
    now: datetime,
    spent: Spent | None = None,
    dry_run: bool = False,
    baseline: str = "note",
) -> Decision:
    """Decide what this look starts.

    *cells* are those of the tracked suites; *registered* tells whether a cell is a partition already (then it is not
    added again); *spent* is what is known elsewhere of this month: the greater of it and the cursor's own count holds.
    *baseline* ``run`` follows what a first look finds, ``note`` (the default) only remembers it. A dry run spends
    nothing and remembers nothing but that it looked and what a first look noted.
    """
    month = month_of(now)
    own = Spent(cursor.runs, cursor.usd) if cursor is not None and cursor.month == month else Spent()
    other = spent or Spent()
    purse = _Purse(caps, Spent(max(own.runs, other.runs), max(own.usd, other.usd)), estimate)
    before = dict(cursor.subjects) if cursor is not None else {}
    tally, notes = _Tally(), list[str]()
    states = _learn(before, found, baseline, tally, notes)
    planned: list[Request] = []
    after = dict(states)
    for name, state in states.items():
        kind = subject(name)
        if state.pending is None or kind is None:
            continue
        taken, rest = _advance(kind, state.pending, cells, purse, tally)
        planned += taken
        after[name] = replace(state, pending=rest)
        if rest is None:
            after[name] = replace(after[name], seen=(*state.seen, state.pending.value)[-SEEN_KEPT:])
    if dry_run:
        noted = {n: state for n, state in states.items() if n not in before and state.pending is None}
        remembered = Cursor(now, month, own.runs, own.usd, {**before, **noted})
    else:
        remembered = Cursor(now, month, purse.spent.runs, purse.spent.usd, after)
    return Decision(
        planned=tuple(planned),
        unregistered=tuple(one.cell for one in planned if not registered(one.cell)),
        left_out=tally.all(),
        notes=tuple(notes),
        cursor=remembered,
        spent=purse.spent,
        dry_run=dry_run,
    )


def _learn(
    before: Mapping[str, State], found: Sequence[Found], baseline: str, tally: _Tally, notes: list[str]
) -> dict[str, State]:
    """Every subject's state once the new values are known; what starts to be followed has a ``pending``."""
    states = dict(before)
    for one in found:
        kind, state = subject(one.subject), states.get(one.subject)
        if kind is None:
            continue
        if state is None and baseline != "run":
            states[one.subject] = State(one.value)
            notes.append(f"{kind.title(one.value)} is there; a first look only takes note of it.")
            continue
        if state is not None and (one.value in state.seen or not kind.newer(one.value, state.known)):
            continue
        if state is not None and state.pending is not None:
            old, new = kind.title(state.pending.value), kind.title(one.value)
            tally.add(f"{new} is there: what still waited for the older release is dropped", old, waits=False)
        notes.append(f"{kind.title(one.value)} is new ({one.ref}).")
        seen = state.seen if state is not None else ()
        states[one.subject] = State(one.value, seen, Pending(one.value, one.identity, one.ref))
    return states


def _advance(
    kind: Subject, pending: Pending, cells: Sequence[BenchmarkCell], purse: _Purse, tally: _Tally
) -> tuple[list[Request], Pending | None]:
    """As many runs of one release as fit, and what is left of it (``None``: all was asked for)."""
    release = Found(kind.name, pending.value, pending.identity, pending.ref)
    taken: list[Request] = []
    done: set[str] = set()
    waiting = False
    for base, variant, key in _candidates(kind, pending.value, cells, tally):
        mark = hashlib.sha256(key.encode("ascii")).hexdigest()[:ID_DIGITS]
        if mark in pending.done:
            done.add(mark)  # marks of cells that no suite has any more are forgotten
            continue
        reason = purse.full()
        if reason is None:
            cell = replace(base, revision=variant.revision, engine_version=variant.engine_version)
            price = purse.take(cell)
            if isinstance(price, Decimal):
                taken.append(Request(cell, f"{cell.cell_id}:{pending.identity}", release, price))
                done.add(mark)
                continue
            reason = price
        tally.add(reason, key, waits=True)
        waiting = True
    return taken, replace(pending, done=frozenset(done)) if waiting else None


def _candidates(
    kind: Subject, value: str, cells: Sequence[BenchmarkCell], tally: _Tally
) -> Iterator[tuple[BenchmarkCell, Variant, str]]:
    """Base, variant and key of every cell the release gives, in order, each once."""
    keys: set[str] = set()
    for base in cells:
        variant = kind.variant(base, value)
        if isinstance(variant, str):
            tally.add(variant, _key(base, Variant(base.revision, base.engine_version)), waits=False)
        elif variant is not None and (key := _key(base, variant)) not in keys:
            keys.add(key)
            yield base, variant, key


def _key(base: BenchmarkCell, variant: Variant) -> str:
    """Key text of the new cell, without building the cell: thousands are looked at to take four."""
    return (
        f"{base.model}@{variant.revision}~{base.instance}~{base.engine}-{variant.engine_version}"
        f"~{_deployed(base.deployment)}~{base.workload}"
    )


@lru_cache(maxsize=4096)
def _deployed(deployment: Deployment) -> str:
    return f"{deployment.label}-{deployment.digest}"
