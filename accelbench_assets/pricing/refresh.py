"""One day's snapshot: ask what may be asked, keep the last good of what fails, write it down.

Belongs here: the order of it, the isolation of failures, the report. Does not belong here: requests and readings
(``aws``), the choice among points (``merge``), the rules of plausibility (``sanity``).

A snapshot is appended and nothing is ever changed. Answers are kept before the prices that were read from them, so a
price never names an answer that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.pricing import sanity, store
from accelbench_assets.pricing.amazon import PACKAGED_REGION, command
from accelbench_assets.pricing.aws.reading import Reading, Stamp
from accelbench_assets.pricing.merge import hold_back
from accelbench_assets.pricing.points import DECLARED, Group, Point
from accelbench_assets.pricing.providers import PROVIDERS
from accelbench_assets.pricing.raw import keep
from accelbench_assets.pricing.snapshot import day_points, to_table
from accelbench_assets.pricing.sources import Sources, Unit
from accelbench_assets.scrub import scrub

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

THREADS = 4
SHOWN = 200  # characters of an error in a row's reason


@dataclass(frozen=True)
class Outcome:
    """What became of one unit: rows read, or why it failed and from when its last good prices are (UTC)."""

    unit: str
    rows: int = 0
    error: str | None = None
    unread: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    last_good: datetime | None = None

    @property
    def sentence(self) -> str:
        """One line for people."""
        if self.error is None:
            more = f"; not readable: {'; '.join(self.unread)}" if self.unread else ""
            more += f"; passed over: {'; '.join(self.odd)}" if self.odd else ""
            return f"{self.unit}: {self.rows} rows{more}"
        kept = (
            f"kept as of {self.last_good:%Y-%m-%d %H:%M} UTC"
            if self.last_good
            else "nothing known from before"
        )
        return f"{self.unit}: {self.error} ({kept})"


@dataclass
class Report:
    """What a snapshot holds and what is to be said of it."""

    table: pa.Table
    uri: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    jumps: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    at_odds: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """Units that were asked in vain or only partly understood."""
        return [one for one in self.outcomes if one.error is not None or one.unread]


def take(
    lake: Lake,
    day: date,
    sources: Sources,
    *,
    declared: tuple[tuple[str, Decimal | float | str], ...] = (),
    also: Iterable[str] = (),
    regions: Sequence[str] = (PACKAGED_REGION,),
    providers: Sequence[str] | None = None,
    again: bool = False,
    now: datetime | None = None,
) -> Report:
    """Write the snapshot of *day* and report on it.

    Of *providers* (all of them, if not given) those are asked that *sources* allow, and only for the current day
    (*now*, UTC): today's prices are not those of another day. What was asked within ``max_age_h`` is not asked *again*
    unless told to. *regions* get blank rows even if nobody was asked
    about them. Raises ``LakeError`` when the lake cannot be read or written, ``UsageError`` for a bad declared price;
    a source that fails is an outcome of the report, not an error.
    """
    at = now or datetime.now(UTC)
    known = store.known_on(lake.storage, day)
    asked = PROVIDERS if providers is None else providers
    units = [u for name in asked for u in PROVIDERS[name].units(sources)] if day == at.date() else []
    since = at - timedelta(hours=sources.max_age_h)
    answered = {p.group for p in known if p.fetched_at and p.fetched_at >= since} if units else set()
    due = [u for u in units if again or not answered.intersection(_groups(u))]
    readings = _ask(due, at)
    if due:  # that may have taken minutes, in which others wrote
        known = store.known_on(lake.storage, day)
    fetched = [point for reading in readings if isinstance(reading, Reading) for point in reading.points]
    faults = sanity.impossible(fetched)
    held = [f"{sanity.label(fetched[place])}: {problem}" for place, problem in faults.items()]
    points = day_points(
        day,
        declared=declared,
        also=also,
        at=at,
        known=known,
        notes=[
            note for unit, reading in zip(due, readings, strict=True) for note in _notes(unit, reading, at)
        ],
        fetched=hold_back(fetched, faults, known),
        regions=(*regions, *(u.region for u in units)),
    )
    report = Report(to_table(day, points), impossible=held, at_odds=sanity.at_odds(points))
    report.fresh = [u.name for u in units if u not in due]
    report.outcomes = [_outcome(u, r, known) for u, r in zip(due, readings, strict=True)]
    moved = [p for p in points if p.tier != DECLARED and p.fetched_at and p.fetched_at.date() == day]
    if moved:
        report.jumps = sanity.jumps(store.known_on(lake.storage, day - timedelta(days=1)), moved)
    answers = [raw for reading in readings if isinstance(reading, Reading) for raw in reading.raw]
    keep(lake.storage, day.isoformat(), answers, {p.source_sha256 for p in known if p.source_sha256})
    report.uri = lake.write_fact("price_points", day.isoformat(), report.table)
    return report


def _groups(unit: Unit) -> list[Group]:
    return [Group(unit.provider, unit.region, name, tier) for tier in unit.tiers for name in unit.wanted]


def _ask(units: Sequence[Unit], at: datetime) -> list[Reading | AccelBenchError]:
    """The reading of each unit, or its error; a few at a time."""

    def one(unit: Unit) -> Reading | AccelBenchError:
        try:
            reading = unit.ask(at)
        except AccelBenchError as error:
            return error
        except Exception as error:  # one source's surprise must not cost the snapshot of the others
            return AccelBenchError(f"{unit.name}: unexpected {type(error).__name__}: {scrub(str(error))}")
        source = f"{reading.points[0].source}" if reading.points else f"AWS {unit.what} {unit.region}"
        stamp = Stamp(at, source, reading.raw[0].sha256 if reading.raw else "")
        reading.add_missing(_groups(unit), unit.reasons, stamp)
        return reading

    if not units:
        return []
    with ThreadPoolExecutor(min(THREADS, len(units)), thread_name_prefix="prices") as pool:
        return list(pool.map(one, units))


def _notes(unit: Unit, reading: Reading | AccelBenchError, at: datetime) -> list[Point]:
    """Blanks that say what went wrong, for what was never known: anything known outdoes them."""
    if isinstance(reading, Reading):
        problems = {group: f"the answer cannot be read: {text}" for group, text in reading.unread.items()}
    else:
        text = f"asking failed: {scrub(reading.message)[:SHOWN].rstrip('. ')}"
        problems = dict.fromkeys(_groups(unit), text)
    return [
        Point(*group, missing_reason=f"{at:%Y-%m-%d}: {problem}; `{command(group.region, group.tier)}`")
        for group, problem in problems.items()
    ]


def _outcome(unit: Unit, reading: Reading | AccelBenchError, known: Iterable[Point]) -> Outcome:
    if isinstance(reading, Reading):
        told = tuple(f"{group.instance_type} {group.tier}: {text}" for group, text in reading.unread.items())
        return Outcome(unit.name, rows=len(reading.points), unread=told, odd=tuple(sorted(reading.odd)))
    groups = set(_groups(unit))
    dates = [p.fetched_at for p in known if p.group in groups and p.fetched_at is not None]
    return Outcome(unit.name, error=scrub(str(reading)), last_good=max(dates, default=None))
