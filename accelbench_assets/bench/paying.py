"""The money side of one attempt: reserved before anything is started, kept alive with it, settled at its end.

Belongs here: when the ledger is asked. Does not belong here: the ledger and the estimate (``budget``), prices
(``pricing``), what a result costs per token (``sql/marts``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from decimal import Decimal

from accelbench_assets.bench.request import RunRequest
from accelbench_assets.budget.base import NODE_IDLE_S, Budget, Reservation
from accelbench_assets.errors import AccelBenchError, LaunchError
from accelbench_assets.launch.base import AttemptHold, EventSink, Launcher


class Purse:
    """What one attempt may spend; ``usd_per_hour`` is that of all its instances together, ``None`` if it is free."""

    def __init__(
        self, request: RunRequest, launcher: Launcher, budget: Budget | None, on_event: EventSink
    ) -> None:
        self._request, self._launcher, self._budget, self._on_event = request, launcher, budget, on_event
        self._reservation: Reservation | None = None
        self._ttl_s = 0.0
        self.hold: AttemptHold | None = None
        """Knows since when machines are rented; ``None`` before the attempt is held."""
        self.spent_usd: Decimal | None = None
        """What the run did cost so far, idle node included; ``None`` before any machine was rented."""

    def is_of_another(self, error: BaseException) -> bool:
        """Whether *error* says that another process works on this run, so that its money is that one's. What is in the
        way of an attempt that is held already is no sign of that.
        """
        return isinstance(error, LaunchError) and error.code == "conflict" and self.hold is None

    def add_up(self) -> None:
        """Reckon what machines have cost until now."""
        estimate, since = self._request.estimate, self.hold.billed_since if self.hold else None
        if estimate is not None and since is not None:
            seconds = Decimal(str(round(time.monotonic() - since + NODE_IDLE_S, 3)))
            self.spent_usd = estimate.usd_per_hour * seconds / 3600

    @contextlib.contextmanager
    def reserved(self, ttl_s: float) -> Iterator[None]:
        """Hold the estimate's money while the attempt lasts; without the ledger nothing paid is launched.

        Raises ``LaunchError``: ``no_price``, ``no_ledger``, ``over_budget``.
        """
        if not self._launcher.paid:
            yield
            return
        estimate = self._request.estimate
        if estimate is None:
            raise LaunchError("This launch costs money and nobody estimated how much.", code="no_price")
        if self._budget is None:
            raise LaunchError(
                "This launch costs money and there is no budget ledger to reserve it in.",
                code="no_ledger",
                hint="Set database_url: no database, no paid launch.",
            )
        self._ttl_s = ttl_s
        self._reservation = self._budget.reserve(
            self._request.run_id,
            usd=estimate.usd,
            usd_per_hour=estimate.usd_per_hour,
            instance_type=self._request.cell.instance,
            ttl_s=ttl_s,
        )
        try:
            yield
        except LaunchError as error:
            if self.is_of_another(error):
                self._reservation = None
            raise
        finally:
            self.add_up()
            self._tell(lambda r: r.settle(self.spent_usd or Decimal(0)), "settled")

    def renew(self) -> None:
        """The attempt lives: so does its reservation. Raises ``LaunchError`` (``lease_lost``) when the ledger knows the
        run for dead; whatever else is wrong is told and no more.
        """
        self._tell(lambda r: r.renew(self._ttl_s), "renewed")

    def _tell(self, what: Callable[[Reservation], object], done: str) -> None:
        if self._reservation is None:
            return
        try:
            what(self._reservation)
        except AccelBenchError as error:
            if isinstance(error, LaunchError) and error.code == "lease_lost":
                raise
            self._on_event("warning", f"The budget reservation could not be {done}: {error.message}", {})
