"""Pictures of one run as PNG bytes, for Dagster's metadata and the command line.

Belongs here: two charts and their theme. Does not belong here: pages and interactive charts (``reports``).
Every title says where the numbers come from and at which evidence level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt
    import pyarrow as pa

_POINTS = 400  # of one curve: more cannot be seen at this width
_WIDTH, _HEIGHT, _SCALE = 340, 240, 2.0


def _title(record: Mapping[str, Any], what: str) -> alt.TitleParams:
    import altair as alt

    target = f"{record['model_id']} · {record['engine']} {record['engine_version']} · {record['workload_id']}"
    evidence = (
        f"{record['origin']} · evidence level: {record['evidence_level']} · run {str(record['run_id'])[-8:]}"
    )
    return alt.TitleParams(what, subtitle=[target, evidence], anchor="start", offset=10)


def _png(chart: alt.TopLevelMixin) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=_SCALE))


def _load_words(kind: str, value: float) -> str:
    return f"C = {value:g}" if kind == "closed" else f"{value:g} req/s"


def latency_distribution_png(samples: pa.Table, record: Mapping[str, Any]) -> bytes:
    """ECDFs of TTFT and E2E of the requests that arrived in the window, a curve a step, milliseconds on a log
    axis.

    Failed requests never finish: their share is what a curve lacks to 100 %.
    """
    import altair as alt
    import numpy as np
    import pyarrow.compute as pc

    loads = {s["step_index"]: _load_words(s["load_kind"], s["load_value"]) for s in record["ladder"]}
    measured = samples.filter(pc.equal(samples["phase"].cast("string"), "measure"))
    completed = np.asarray(pc.equal(measured["status"].cast("string"), "ok").to_numpy())
    step_of = np.asarray(measured["step_index"].to_numpy())
    points: list[dict[str, Any]] = []
    for metric, column in (("TTFT", "ttft_ms"), ("E2E", "e2e_ms")):
        latencies = np.asarray(pc.fill_null(measured[column], np.nan).to_numpy())
        for step, load in loads.items():
            of_step = step_of == step
            values = np.sort(latencies[of_step & completed & (latencies > 0)])
            for rank in np.unique(np.linspace(1, values.size, min(_POINTS, values.size)).astype(int)):
                share = rank / of_step.sum()
                points.append(
                    {"metric": metric, "load": load, "ms": float(values[rank - 1]), "share": float(share)}
                )
    panel = (
        alt.Chart(alt.Data(values=points))
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X(
                "ms:Q",
                title="milliseconds (log)",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(labelOverlap="greedy", labelSeparation=4),
            ),
            y=alt.Y(
                "share:Q",
                title="share of requests",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=alt.Color("load:N", title="load", sort=list(loads.values())),
        )
        .properties(width=_WIDTH, height=_HEIGHT)
    )
    panels = [
        panel.transform_filter(f"datum.metric == '{name}'").properties(title=name) for name in ("TTFT", "E2E")
    ]
    return _png(alt.hconcat(*panels, title=_title(record, "Latency distribution from the scheduled arrival")))


def throughput_png(steps: pa.Table, record: Mapping[str, Any], percentiles: pa.Table | None = None) -> bytes:
    """Output tokens/s against mean concurrency and, given *percentiles*, TTFT p50 where it is published."""
    import altair as alt

    rows = sorted(steps.to_pylist(), key=lambda row: row["concurrency_mean"])
    median = {
        row["step_index"]: row["p50"]
        for row in (percentiles.to_pylist() if percentiles is not None else ())
        if row["metric"] == "ttft" and row["p50"] is not None
    }
    points = [
        {
            "concurrency": row["concurrency_mean"],
            "tokens": row["output_tokens_per_s"],
            "ttft": median.get(row["step_index"]),
            "load": _load_words(row["load_kind"], row["load_value"]),
        }
        for row in rows
    ]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("concurrency:Q", title="mean requests in flight", scale=alt.Scale(zero=True))
    )

    def panel(field: str, title: str) -> alt.LayerChart:
        y = alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=True))
        known = base.transform_filter(f"isValid(datum.{field})").encode(y=y)
        labels = known.mark_text(dy=-10).encode(text="load:N")
        return (known.mark_line(point=True) + labels).properties(width=_WIDTH, height=_HEIGHT)

    panels = [panel("tokens", "output tokens/s (useful)")]
    if median:
        panels.append(panel("ttft", "TTFT p50, ms"))
    return _png(alt.hconcat(*panels, title=_title(record, "Throughput and latency against concurrency")))
