"""One day's snapshot: ask what may be asked, keep the last good of what fails, write it down.

Belongs here: the order of it, the isolation of failures, the report. Does not belong here: requests and readings
(``aws``), the choice among points (``merge``), the rules of plausibility (``answers`` for whole answers, ``plausible``
and ``sanity`` for prices).

A snapshot is appended and nothing is ever changed. Answers are kept before the prices that were read from them, so a
price never names an answer that is not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.pricing import sanity, store
from accelbench_assets.pricing.amazon import PACKAGED_REGION, command
from accelbench_assets.pricing.answers import failed_tiers, groups_of
from accelbench_assets.pricing.aws.reading import Reading, Stamp
from accelbench_assets.pricing.merge import blanked, hold_back, newest
from accelbench_assets.pricing.plausible import implausible
from accelbench_assets.pricing.points import Point, plain
from accelbench_assets.pricing.providers import PROVIDERS, packaged_on
from accelbench_assets.pricing.raw import keep
from accelbench_assets.pricing.snapshot import day_points, to_table
from accelbench_assets.pricing.sources import Unit
from accelbench_assets.scrub import scrub
from accelbench_assets.settings_groups import PricesSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

THREADS = 4
SHOWN = 200  # characters of an error in a row's reason
LOOK = (
    "If AWS says so on its pages too, `accelbench prices refresh --accept-fewer` takes the answer as it is; "
    "else a name in it has changed, and this version cannot read it"
)


@dataclass(frozen=True)
class Outcome:
    """What became of one unit: rows read and how many have a price, or why it failed and from when its last good prices
    are (UTC). ``lost`` says which tiers of an answer are not believed where others are.
    """

    unit: str
    rows: int = 0
    priced: int = 0
    error: str | None = None
    lost: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    last_good: datetime | None = None

    @property
    def sentence(self) -> str:
        """One line for people."""
        if self.error is not None:
            return f"{self.unit}: {self.error} ({self.kept})"
        more = f"; not believed: {'; '.join(self.lost)} ({self.kept})" if self.lost else ""
        more += f"; not readable: {'; '.join(self.unread)}" if self.unread else ""
        more += f"; passed over: {'; '.join(self.odd)}" if self.odd else ""
        return f"{self.unit}: {self.rows} rows, {self.priced} with a price{more}"

    @property
    def kept(self) -> str:
        """What stands in place of what failed."""
        return (
            f"kept as of {self.last_good:%Y-%m-%d %H:%M} UTC"
            if self.last_good
            else "nothing known from before"
        )


@dataclass
class Report:
    """What a snapshot holds and what is to be said of it."""

    table: pa.Table
    uri: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    jumps: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    implausible: list[str] = field(default_factory=list)
    at_odds: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """Units that were asked in vain, or only partly believed or understood."""
        return [one for one in self.outcomes if one.error is not None or one.lost or one.unread]


def take(
    lake: Lake,
    day: date,
    settings: PricesSettings,
    *,
    declared: tuple[tuple[str, Decimal | float | str], ...] = (),
    also: Iterable[str] = (),
    regions: Sequence[str] = (PACKAGED_REGION,),
    providers: Sequence[str] | None = None,
    again: bool = False,
    accept_fewer: bool = False,
    now: datetime | None = None,
) -> Report:
    """Write the snapshot of *day* and report on it.

    Of *providers* (all of them, if not given) those are asked that *settings* allow, and only for the current day
    (*now*, UTC): today's prices are not those of another day. What was asked within ``max_age_h`` is not asked *again*
    unless told to. *regions* get blank rows even if nobody was asked about them. An answer that lacks most of what was
    known is a failure, unless *accept_fewer*: somebody has looked, and it is true.

    Raises ``LakeError`` when the lake cannot be read or written, ``UsageError`` for a bad declared price; a source that
    fails is an outcome of the report, not an error.
    """
    at = now or datetime.now(UTC)
    known = store.known_on(lake.storage, day)
    asked = PROVIDERS if providers is None else providers
    units = [u for name in asked for u in PROVIDERS[name].units(settings)] if day == at.date() else []
    since = at - timedelta(hours=settings.max_age_h)
    answered = {p.group for p in known if p.fetched_at and p.fetched_at >= since} if units else set()
    due = [u for u in units if again or not answered.intersection(groups_of(u))]
    readings = _ask(due, at)
    if due:  # that may have taken minutes, in which others wrote
        known = store.known_on(lake.storage, day)
    packaged = packaged_on(day)
    lost = _judged(due, readings, newest(known, packaged), at, accept_fewer)
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
            note
            for unit, reading, gone in zip(due, readings, lost, strict=True)
            for note in _notes(unit, reading, gone, at)
        ],
        fetched=hold_back(fetched, faults, known),
        regions=(*regions, *(u.region for u in units)),
    )
    doubts = implausible(points, packaged)
    doubted = [f"{sanity.label(points[place])}: {problem}" for place, problem in doubts.items()]
    points = _without(points, doubts, newest(packaged, known))
    report = Report(to_table(day, points), impossible=held, implausible=doubted)
    report.at_odds = sanity.at_odds(points)
    report.fresh = [u.name for u in units if u not in due]
    report.outcomes = [_outcome(u, r, g, known) for u, r, g in zip(due, readings, lost, strict=True)]
    before = store.known_on(lake.storage, day - timedelta(days=1))
    report.jumps, report.vanished = sanity.jumps(before, points), sanity.vanished(before, points)
    answers = [raw for reading in readings if isinstance(reading, Reading) for raw in reading.raw]
    keep(lake.storage, day.isoformat(), answers, {p.source_sha256 for p in known if p.source_sha256})
    report.uri = lake.write_fact("price_points", day.isoformat(), report.table)
    return report


def _ask(units: Sequence[Unit], at: datetime) -> list[Reading | AccelBenchError]:
    """The reading of each unit, or its error; a few at a time. An interrupt ends it at once: nothing more is asked, and
    the threads are daemons, since an answer may take half an hour and nobody waits for it any more.
    """
    found: dict[int, Reading | AccelBenchError] = {}
    over = Event()
    waiting: SimpleQueue[tuple[int, Unit]] = SimpleQueue()
    for one in enumerate(units):
        waiting.put(one)

    def work() -> None:
        with contextlib.suppress(Empty):
            while not over.is_set():
                place, unit = waiting.get_nowait()
                try:
                    found[place] = unit.ask(at)
                except AccelBenchError as error:
                    found[place] = error
                except Exception as error:  # one source's surprise must not cost the snapshot of the others
                    said = f"{unit.name}: unexpected {type(error).__name__}: {scrub(str(error))}"
                    found[place] = AccelBenchError(said)

    threads = [Thread(target=work, name=f"prices-{n}", daemon=True) for n in range(min(THREADS, len(units)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        over.set()
    return [found[place] for place in range(len(units))]


def _judged(
    units: Sequence[Unit],
    readings: Sequence[Reading | AccelBenchError],
    standing: Sequence[Point],
    at: datetime,
    accept_fewer: bool,
) -> list[dict[str, str]]:
    """For each unit the tiers whose answer is not believed, and why. Those lose their points; in the others what has no
    price gets its reason.
    """
    lost = []
    for unit, reading in zip(units, readings, strict=True):
        gone: dict[str, str] = {}
        if isinstance(reading, Reading):
            gone = {} if accept_fewer else failed_tiers(unit, reading, standing)
            source = str(reading.points[0].source) if reading.points else f"AWS {unit.what} {unit.region}"
            stamp = Stamp(at, source, reading.raw[0].sha256 if reading.raw else "")
            reading.drop(gone)
            asked = [group for group in groups_of(unit) if group.tier not in gone]
            reading.add_missing(asked, unit.reasons, stamp)
        lost.append(gone)
    return lost


def _without(points: Sequence[Point], doubts: Mapping[int, str], known: Iterable[Point]) -> list[Point]:
    """*points* without the prices that are not believed: the reason has each, and what was believed last."""
    before = (
        {p.key: p for p in known if p.effective_usd_per_hour is not None and p.fetched_at} if doubts else {}
    )
    kept = list(points)
    for place, problem in doubts.items():
        last = before.get(points[place].key)
        if last is not None and last.fetched_at != points[place].fetched_at:
            was = plain(last.effective_usd_per_hour or Decimal(0))
            problem += f"; before it was {was} ({last.fetched_at:%Y-%m-%d})"
        kept[place] = blanked(points[place], problem)
    return kept


def _notes(
    unit: Unit, reading: Reading | AccelBenchError, lost: Mapping[str, str], at: datetime
) -> list[Point]:
    """Blanks that say what went wrong, for what was never known: anything known outdoes them."""
    if isinstance(reading, Reading):
        problems = {group: f"the answer cannot be read: {text}" for group, text in reading.unread.items()}
        for group in groups_of(unit):
            if group.tier in lost:
                problems.setdefault(group, f"{lost[group.tier]}, so it says nothing")
    else:
        text = f"asking failed: {scrub(reading.message)[:SHOWN].rstrip('. ')}"
        problems = dict.fromkeys(groups_of(unit), text)
    return [
        Point(*group, missing_reason=f"{at:%Y-%m-%d}: {problem}; `{command(group.region, group.tier)}`")
        for group, problem in problems.items()
    ]


def _outcome(
    unit: Unit, reading: Reading | AccelBenchError, lost: Mapping[str, str], known: Iterable[Point]
) -> Outcome:
    failed = {g for g in groups_of(unit) if not isinstance(reading, Reading) or g.tier in lost}
    dates = [p.fetched_at for p in known if p.group in failed and p.fetched_at is not None]
    last_good = max(dates, default=None)
    if not isinstance(reading, Reading):
        return Outcome(unit.name, error=scrub(str(reading)), last_good=last_good)
    said = tuple(lost.values())
    if said and not reading.points:
        return Outcome(unit.name, error=f"{'; '.join(said)}. {LOOK}", last_good=last_good)
    return Outcome(
        unit.name,
        rows=len(reading.points),
        priced=reading.priced,
        lost=said,
        unread=tuple(f"{group.instance_type} {group.tier}: {text}" for group, text in reading.unread.items()),
        odd=tuple(sorted(reading.odd)),
        last_good=last_good,
    )
