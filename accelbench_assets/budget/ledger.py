"""The budget ledger in PostgreSQL: reservations, settlements and the caps, decided one at a time.

Belongs here: ``PostgresBudget`` and its reservations. Does not belong here: connecting and error texts
(``connection``), the estimate, when a run asks (``bench``).

Every decision is one transaction under one advisory lock, by the database's clock, so racing launches are decided one
after the other. An orchestrator that died does not renew: its reservation expires and is settled at what it may have
cost until then. That is an assumption, so a real settlement that still comes replaces it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal
from typing import Any

from accelbench_assets.budget.base import NODE_IDLE_S, MonthToDate, dollars
from accelbench_assets.budget.connection import TIMEOUT_S, has_table, make_table, transaction
from accelbench_assets.errors import LaunchError
from accelbench_assets.settings_groups import BudgetSettings

ADVISORY_LOCK = 4_713_220_612
"""One decision on money at a time; next to the publisher's, which it must not wait for."""
MAX_TTL_S = 7 * 86_400.0

# What a reservation that ran out is taken to have cost: never more than was put aside.
_ASSUMED = (
    "least(reserved_usd, usd_per_hour * (extract(epoch from expires_at - reserved_at) / 3600)::numeric)"
)
_LAPSE = f"""
update accelbench.budget_ledger
set settled_usd = {_ASSUMED}, settled_at = expires_at, settled_how = 'expired'
where settled_usd is null and expires_at <= %(now)s
"""  # noqa: S608 - a text of ours
_SPENT = f"""
select
  coalesce(sum(case when settled_usd is not null then settled_usd else {_ASSUMED} end)
    filter (where coalesce(settled_at, expires_at) >= date_trunc('month', %(now)s::timestamptz, 'UTC')
      and (settled_usd is not null or expires_at <= %(now)s)), 0) as spent,
  coalesce(sum(reserved_usd) filter (where settled_usd is null and expires_at > %(now)s), 0) as reserved,
  coalesce(array_agg(run_id order by reserved_at, run_id)
    filter (where settled_usd is null and expires_at > %(now)s), '{{}}') as open_runs
from accelbench.budget_ledger
where settled_usd is null or settled_at >= date_trunc('month', %(now)s::timestamptz, 'UTC')
"""  # noqa: S608 - a text of ours
_INSERT = """
insert into accelbench.budget_ledger
  (run_id, instance_type, usd_per_hour, reserved_usd, reserved_at, expires_at)
values (%(run_id)s, %(instance_type)s, %(usd_per_hour)s, %(usd)s, %(now)s,
  %(now)s + make_interval(secs => %(ttl_s)s))
returning reservation_id::text
"""
_RENEW = """
update accelbench.budget_ledger
set expires_at = %(now)s + make_interval(secs => %(ttl_s)s),
  settled_usd = null, settled_at = null, settled_how = null
where run_id = %(run_id)s and (settled_how is null or settled_how = 'expired')
"""
_SETTLE = """
update accelbench.budget_ledger
set settled_usd = coalesce(%(usd)s::numeric,
    case when %(ran)s
      then usd_per_hour
        * ((extract(epoch from greatest(%(now)s, reserved_at) - reserved_at) + %(idle_s)s) / 3600)::numeric
      else least(reserved_usd, usd_per_hour
        * (extract(epoch from greatest(least(%(now)s, expires_at), reserved_at) - reserved_at) / 3600)::numeric)
    end),
  settled_at = greatest(%(now)s, reserved_at), settled_how = %(how)s
where run_id = %(run_id)s and (settled_how is null or settled_how = 'expired')
"""


@dataclass(frozen=True, slots=True)
class PostgresReservation:
    """See ``Reservation``; ``reservation_id`` is that of the ledger's row."""

    run_id: str
    reservation_id: str
    budget: PostgresBudget

    def renew(self, ttl_s: float) -> None:
        """See ``Reservation.renew``."""
        self.budget.renew_run(self.run_id, ttl_s)

    def settle(self, usd: Decimal) -> None:
        """See ``Reservation.settle``."""
        self.budget.end_run(self.run_id, usd, "settled")


class PostgresBudget:
    """``Budget`` on the database at *dsn* with the caps of *settings*. Cheap to make: nothing is contacted before the
    first call. *timeout_s* bounds connecting and each statement. Safe to use from several threads.
    """

    def __init__(self, dsn: str, settings: BudgetSettings, *, timeout_s: float = TIMEOUT_S) -> None:
        self._dsn, self._settings, self._timeout_s = dsn, settings, timeout_s
        self._ready = threading.Event()

    def reserve(
        self, run_id: str, *, usd: Decimal, usd_per_hour: Decimal, instance_type: str, ttl_s: float
    ) -> PostgresReservation:
        """See ``Budget.reserve``. *ttl_s* is above 0 and at most a week; ``ValueError`` for what is no amount."""
        row = {
            "run_id": run_id,
            "instance_type": instance_type,
            "usd": dollars(usd, "reservation", up=True),
            "usd_per_hour": dollars(usd_per_hour, "usd_per_hour", up=True),
            "ttl_s": _ttl(ttl_s),
        }
        self._make_ready()
        with transaction(self._dsn, self._timeout_s) as connection:
            row["now"] = _decide(connection)
            connection.execute(_LAPSE, row)
            found = connection.execute(
                "select reservation_id::text, settled_how from accelbench.budget_ledger where run_id = %s",
                (run_id,),
            ).fetchone()
            if found is None:
                self._refuse_above_caps(connection, row)
                found = (*connection.execute(_INSERT, row).fetchone(), None)
            elif found[1] is not None:
                raise LaunchError(
                    f"The budget of run {run_id} is closed ({found[1]}): an attempt is paid for once.",
                    code="over_budget",
                    hint="Start a new run.",
                )
        return PostgresReservation(run_id, found[0], self)

    def renew_run(self, run_id: str, ttl_s: float) -> None:
        """See ``Reservation.renew``."""
        row = {"run_id": run_id, "ttl_s": _ttl(ttl_s)}
        self._make_ready()
        with transaction(self._dsn, self._timeout_s) as connection:
            row["now"] = _decide(connection)
            if connection.execute(_RENEW, row).rowcount:
                return
            found = connection.execute(
                "select settled_how from accelbench.budget_ledger where run_id = %s", (run_id,)
            ).fetchone()
        if found is None or found[0] == "reaped":
            raise LaunchError(
                f"Run {run_id} is taken for dead: its budget reservation was settled by the reaper."
                if found
                else f"Run {run_id} has no budget reservation.",
                code="lease_lost",
            )

    def settle_run(self, run_id: str, usd: Decimal | None = None, *, ran_until_now: bool = True) -> bool:
        """See ``Budget.settle_run``. A reservation that the run itself settled stays as it is."""
        return self.end_run(run_id, usd, "reaped", ran_until_now=ran_until_now)

    def end_run(self, run_id: str, usd: Decimal | None, how: str, *, ran_until_now: bool = True) -> bool:
        """Settle with *usd* (``None``: as ``Budget.settle_run`` says) unless that was done before; whether it was done
        now. *how* is ``settled`` or ``reaped``.
        """
        amount = None if usd is None else dollars(usd, "settlement", positive=False)
        self._make_ready()
        with transaction(self._dsn, self._timeout_s) as connection:
            now = _decide(connection)
            row: dict[str, Any] = {"run_id": run_id, "usd": amount, "how": how, "now": now}
            row |= {"ran": ran_until_now, "idle_s": NODE_IDLE_S}
            return bool(connection.execute(_SETTLE, row).rowcount)

    def month_to_date(self) -> MonthToDate:
        """See ``Budget.month_to_date``; writes nothing, and an absent table is an empty one."""
        with transaction(self._dsn, self._timeout_s) as connection:
            now = connection.execute("select clock_timestamp()").fetchone()[0]
            nothing: tuple[Any, ...] = (Decimal(0), Decimal(0), [])
            there = has_table(connection)
            spent, reserved, runs = connection.execute(_SPENT, {"now": now}).fetchone() if there else nothing
        caps = self._settings
        return MonthToDate(
            at=now.astimezone(UTC),
            spent_usd=spent,
            reserved_usd=reserved,
            open_runs=tuple(runs),
            max_usd_per_run=caps.max_usd_per_run,
            max_usd_per_month=caps.max_usd_per_month,
            max_runs=caps.max_runs,
        )

    # -- inside -----------------------------------------------------------------------------------------------

    def _make_ready(self) -> None:
        if not self._ready.is_set():
            make_table(self._dsn, self._timeout_s)
            self._ready.set()

    def _refuse_above_caps(self, connection: Any, row: dict[str, Any]) -> None:
        """Raise ``LaunchError`` (``over_budget``) for the first cap that the reservation would break."""
        caps, usd = self._settings, row["usd"]
        what = f"A run on {row['instance_type']} may cost {_shown(usd, ROUND_UP)} USD"
        if usd > caps.max_usd_per_run:
            raise _over(
                f"{what}, and the cap of one run is {_shown(caps.max_usd_per_run)} USD",
                "max_usd_per_run",
                "Give it a shorter deadline, or raise",
            )
        spent, reserved, runs = connection.execute(_SPENT, row).fetchone()
        if spent + reserved + usd > caps.max_usd_per_month:
            raise _over(
                f"{what}; this month has cost {_shown(spent)} USD and {_shown(reserved)} USD are reserved,"
                f" and the cap of a month is {_shown(caps.max_usd_per_month)} USD",
                "max_usd_per_month",
                "Wait until running ones have settled, or raise",
            )
        if len(runs) >= caps.max_runs:
            raise _over(
                f"{len(runs)} paid runs are under way, and the cap is {caps.max_runs}",
                "max_runs",
                "Wait until one of them ends, or raise",
            )


def _decide(connection: Any) -> datetime:
    """Wait for our turn; the database's time after it. Nobody decides anything else until the transaction ends."""
    connection.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
    now: datetime = connection.execute("select clock_timestamp()").fetchone()[0]
    return now


def _ttl(seconds: float) -> float:
    if not 0 < seconds <= MAX_TTL_S:
        raise ValueError(f"ttl_s: {seconds!r} is not above 0 and at most {MAX_TTL_S:.0f}")
    return float(seconds)


def _over(text: str, setting: str, hint: str) -> LaunchError:
    variable = f"ACCELBENCH_BUDGET__{setting.upper()}"
    return LaunchError(
        f"{text} (budget.{setting}); nothing was started.",
        code="over_budget",
        hint=f"{hint} budget.{setting} ({variable}).",
    )


def _shown(usd: Decimal, rounding: str = ROUND_HALF_EVEN) -> str:
    """With cents; a small amount with as many decimals as it needs not to look like nothing."""
    return f"{usd.quantize(Decimal('0.01' if usd == 0 or usd >= 1 else '0.0001'), rounding):,}"
