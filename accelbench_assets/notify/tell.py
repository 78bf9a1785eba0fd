"""The use case: a run has ended, so find what became of it and tell whoever wants to know.

Belongs here: from a Dagster run's facts to the runs record, its headline figures and the deliveries. Does not belong
here: Dagster (``defs``), wording, channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.notify.message import Ended, compose
from accelbench_assets.notify.send import Delivery, deliver, secrets_of
from accelbench_assets.settings_groups import NotifySettings

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

LOOK_BACK = 200
"""Newest records that are looked through when nothing names the attempt."""
_SHOWN = ("published", "wide")


def tell(
    ended: Ended,
    open_lake: Callable[[], Lake],
    settings: NotifySettings,
    *,
    warn: Callable[[str], None] = lambda _: None,
) -> list[Delivery]:
    """Tell of *ended* on every channel; what became of it on each. A lake that cannot be read costs the details, and
    *warn* hears why.
    """
    record: Mapping[str, Any] | None = None
    figures: Mapping[str, float | str] = {}
    try:
        lake = open_lake()
        record = find_record(lake, ended)
        if record is not None:
            figures = headline(lake, record)
    except AccelBenchError as error:
        warn(f"What became of Dagster run {ended.dagster_run_id} could not be read: {error}")
    page, secrets = settings.page_url, secrets_of(settings)
    return deliver(compose(ended, record, figures=figures, page_url=page, secrets=secrets), settings)


def find_record(lake: Lake, ended: Ended) -> dict[str, Any] | None:
    """The runs record of *ended*: by a named id, else among the newest records by the Dagster run's id.

    ``None`` when there is none (yet). Raises ``LakeError``.
    """
    for run_id in ended.run_ids:
        if (record := lake.run_record(run_id)) is not None:
            return record
    for record in lake.run_records(limit=LOOK_BACK):
        if record.get("dagster_run_id") == ended.dagster_run_id:
            return record
    return None


def headline(lake: Lake, record: Mapping[str, Any]) -> dict[str, float | str]:
    """A succeeded run's figures at its step of highest throughput, by name with unit; empty while nothing is derived.

    Of latencies the highest quantile up to p95 that its gate lets be shown. Raises ``LakeError``.
    """
    if record.get("status") != "succeeded" or not lake.has_run_table("run_steps", record):
        return {}
    steps = [s for s in lake.run_table("run_steps", record).to_pylist() if s["output_tokens_per_s"]]
    if not steps:
        return {}
    best = max(steps, key=lambda step: step["output_tokens_per_s"])
    unit = "req/s" if best["load_kind"] == "open" else "concurrent"
    found: dict[str, float | str] = {
        "output tokens/s": best["output_tokens_per_s"],
        "at": f"{best['load_value']:g} {unit}",
    }
    for row in lake.run_table("run_percentiles", record).to_pylist():
        if row["step_index"] != best["step_index"] or row["metric"] not in ("ttft", "tpot"):
            continue
        shown = (q for q in ("p95", "p90", "p50") if row[q] is not None and row[f"{q}_gate"] in _SHOWN)
        if (quantile := next(shown, None)) is not None:
            found[f"{row['metric'].upper()} {quantile} {row['unit']}"] = row[quantile]
    return found
