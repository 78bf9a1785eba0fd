"""What the rest of AccelBench knows of a budget: two protocols and three values.

Belongs here: ``Budget``, ``Reservation``, ``Estimate``, ``MonthToDate`` and the one rule for amounts of money.
Does not belong here: PostgreSQL (``ledger``), prices (``estimate``).

Money is US dollars as ``Decimal`` with ten decimals, never a float.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal, InvalidOperation
from typing import Protocol

NODE_IDLE_S = 600
"""Seconds a node stays after its last pod: the NodePools' ``consolidateAfter``. They are paid for as well."""
REPLACED_NODES = 1
"""Nodes that a start may lose and have replaced; the next loss ends it."""
QUANTUM = Decimal("0.0000000001")
"""The ten decimals of the ledger's columns."""
LIMIT = Decimal(10) ** 10
"""Amounts stay below this: what the columns hold."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most a run can cost before it starts: *usd* for *hours* at *usd_per_hour*, which is all its instances
    together. ``price_source`` says who knows the price.
    """

    usd: Decimal
    usd_per_hour: Decimal
    hours: Decimal
    price_source: str


@dataclass(frozen=True, slots=True)
class MonthToDate:
    """The ledger at a moment: what this calendar month (UTC) has cost, what is still reserved, and the caps.

    A reservation that ran out counts as spent, as the next ``reserve`` will write it down.
    """

    at: datetime
    spent_usd: Decimal
    reserved_usd: Decimal
    open_runs: tuple[str, ...]
    max_usd_per_run: Decimal
    max_usd_per_month: Decimal
    max_runs: int

    @property
    def left_usd(self) -> Decimal:
        """What another run may still reserve this month; negative when runs cost more than was reserved."""
        return self.max_usd_per_month - self.spent_usd - self.reserved_usd


def paid_seconds(deadline_s: float, replicas: int) -> float:
    """The longest time for which all *replicas* instances of a run together can be paid for, in seconds.

    Each until the deadline and until its idle node is taken away. A lost node is paid for as long after its pod, and so
    are nodes beside one a replica: those that replace lost ones, and one a replica that the cluster may order at once
    when the loss that ends the start takes them all. Raises ``ValueError`` for less than one replica.
    """
    if replicas < 1:
        raise ValueError(f"{replicas} replicas cost nothing")
    beside = REPLACED_NODES + replicas
    return deadline_s + NODE_IDLE_S * (1 + beside / replicas)


class Reservation(Protocol):
    """Money put aside for one run. Every method may be repeated, from any thread."""

    @property
    def run_id(self) -> str:
        """The run that the money is for."""
        ...

    def renew(self, ttl_s: float) -> None:
        """The run lives: let the reservation expire *ttl_s* seconds from now and not before.

        One that had expired meanwhile is opened again: the run spends money, whatever the ledger assumed. Without
        effect once the run has settled. Raises ``LaunchError``: ``no_ledger``; ``lease_lost`` when the reaper has
        settled it, so the run is taken for dead.
        """
        ...

    def settle(self, usd: Decimal) -> None:
        """What the run did cost, final: later calls change nothing. It may be more than was reserved.

        Raises ``LaunchError`` (``no_ledger``), ``ValueError`` for an amount that is none.
        """
        ...


class Budget(Protocol):
    """Refuses what would cost too much, before it costs anything."""

    def reserve(
        self, run_id: str, *, usd: Decimal, usd_per_hour: Decimal, instance_type: str, ttl_s: float
    ) -> Reservation:
        """Put *usd* aside for *run_id*, for *ttl_s* seconds unless renewed; again for the same run: the same one.

        Raises ``LaunchError``: ``over_budget`` names the cap and its setting, and nothing was written; ``no_ledger``
        when the ledger cannot be asked: no database, no paid launch.
        """
        ...

    def settle_run(self, run_id: str, usd: Decimal | None = None, *, ran_until_now: bool = True) -> bool:
        """End a dead run's reservation; whether there was one to end. Raises ``LaunchError`` (``no_ledger``).

        With *usd*; without it, of a run whose servers were there until now, the cost until then and of the idle node;
        of any other what it can have cost until its reservation ran out, at most what was reserved.
        """
        ...

    def month_to_date(self) -> MonthToDate:
        """Spent, reserved and caps. Raises ``LaunchError`` (``no_ledger``)."""
        ...


def dollars(amount: Decimal | float | str, what: str, *, up: bool = False, positive: bool = True) -> Decimal:
    """*amount* with the ledger's ten decimals; *up* rounds what is reserved so that it is never too little.

    Raises ``ValueError`` naming *what* for an amount that is not finite, below zero (zero, if *positive*), or too big.
    """
    try:
        value = Decimal(str(amount))
        if not value.is_finite() or abs(value) >= LIMIT:
            raise InvalidOperation
        value = value.quantize(QUANTUM, ROUND_UP if up else ROUND_HALF_EVEN)
    except InvalidOperation:
        raise ValueError(f"{what}: {amount!r} is not an amount in US dollars") from None
    if value < 0 or (positive and value == 0):
        raise ValueError(f"{what}: {amount!r} is not {'above' if positive else 'at least'} zero")
    return value
