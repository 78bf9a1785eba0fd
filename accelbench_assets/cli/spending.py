"""What the benchmark itself has cost: ``accelbench cost`` without a run.

Belongs here: listing the mart ``run_costs``, and the budget ledger's own sum beside it.
Does not belong here: formulas (``sql/marts/run_costs.sql``), reserving money (``budget``).
"""

from __future__ import annotations

from accelbench_assets.cli.options import Format
from accelbench_assets.cli.output import Column, emit, number
from accelbench_assets.cli.state import STATE
from accelbench_assets.errors import AccelBenchError

SPENT = (
    Column("run", "run"),
    Column("status", "status"),
    Column("instance_type", "instance"),
    Column("instance_count", "n", "int", keep=2),
    Column("ended_at", "ended", "time", keep=1),
    Column("seconds", "billed s", "rate", keep=3),
    Column("usd", "USD", "usd"),
    Column("idle_node_usd", "of it idle", "usd", keep=4),
    Column("month_to_date_usd", "month to date", "usd"),
    Column("missing_reason", "why none", wrap=True, keep=5),
)


def show_spent(fmt: Format) -> None:
    """Every attempt's own cost, newest first; JSON and CSV have every column of ``run_costs``."""
    from accelbench_assets.cli.results import rows
    from accelbench_assets.sqlkit.duck import connect

    with connect(STATE.lake(), only=("run_costs",)) as db:
        found = rows(db, "select * from run_costs order by ended_at desc, run_id desc")
        names = [str(c[0]) for c in db.execute("select * from run_costs limit 0").description or []]
    for row in found:
        row["run"] = str(row["run_id"])[:13]
    emit(found, SPENT, fmt, fields=names, empty="Nothing has been run yet.")
    if fmt is Format.table and STATE.settings.database_url is not None:
        _note_ledger()


def _note_ledger() -> None:
    from accelbench_assets.budget.ledger import PostgresBudget

    settings = STATE.settings
    if settings.database_url is None:
        return
    try:
        month = PostgresBudget(settings.database_url.get_secret_value(), settings.budget).month_to_date()
    except AccelBenchError as error:
        STATE.warn(error.message)
        return
    STATE.note(
        f"The budget ledger, {month.at:%B %Y}: {number(month.spent_usd)} USD spent, {number(month.reserved_usd)} "
        f"reserved by {len(month.open_runs)} open runs, of {number(month.max_usd_per_month)}."
    )
