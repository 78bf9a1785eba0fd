"""The throughput chart: output tokens/s and TTFT against concurrency, a line for each engine and deployment.

Belongs here: choosing the series, the Vega-Lite specification (through Altair), its still picture, the
browser bundle.
Does not belong here: the page around it, resizing and highlighting (``reports/assets/site.js``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelbench_assets.reports.format import significant
from accelbench_assets.reports.results import Result

# Okabe and Ito's colours, told apart with common colour blindness; each comes with a shape of its own.
_STYLES = (
    ("#0072b2", "circle"),
    ("#d55e00", "square"),
    ("#009e73", "triangle-up"),
    ("#cc79a7", "diamond"),
    ("#e69f00", "cross"),
    ("#56b4e9", "triangle-down"),
    ("#8a6d3b", "triangle-right"),
    ("#7f7f7f", "triangle-left"),
)
MAX_SERIES = len(_STYLES)
# Sentinels: site.css gives these colours their value for the light and the dark theme.
INK, GRID = "#4b5563", "#d1d5db"


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its label, colour and shape."""

    label: str
    color: str
    shape: str
    origin: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a page needs of a chart: specification, still SVG, legend, its words, series left out, and whether
    any TTFT passed its gate (without one there is no TTFT panel).
    """

    spec: Mapping[str, Any]
    svg: str
    series: tuple[Series, ...]
    summary: str
    left_out: int
    has_ttft: bool


def throughput_chart(results: Sequence[Result]) -> Chart | None:
    """The chart of the newest run of each cell that has closed-loop steps; ``None`` if nothing can be drawn.

    *results* are newest first. At most ``MAX_SERIES`` cells are drawn.
    """
    newest: dict[str, str] = {}
    for result in results:
        newest.setdefault(result.cell_key, result.run_id)
    points = [
        r
        for r in results
        if r.load_kind == "closed" and r.output_tokens_per_s is not None and newest[r.cell_key] == r.run_id
    ]
    keys = list(dict.fromkeys(r.cell_key for r in points))
    if not keys:
        return None
    drawn = [r for r in points if r.cell_key in keys[:MAX_SERIES]]
    labels = _labels(drawn)
    origins = {r.cell_key: r.origin for r in drawn}
    series = tuple(
        Series(labels[key], color, shape, origins[key])
        for key, (color, shape) in zip(keys, _STYLES, strict=False)
    )
    spec = _spec(drawn, labels, series)
    has_ttft = any(r.ttft_ms is not None for r in drawn)
    return Chart(spec, _svg(spec), series, _summary(drawn, labels), max(0, len(keys) - MAX_SERIES), has_ttft)


def browser_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one classic script that leaves only ``vegaEmbed`` behind (0.9 MB)."""
    import vl_convert

    return "(() => {\n" + str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")) + "\n})();\n"


def bundle_version() -> str:
    """Names the bundle's content: the version of the package it is taken from."""
    from importlib.metadata import version

    return version("vl-convert-python")


def _labels(results: Sequence[Result]) -> dict[str, str]:
    """For each cell key the engine, and after it only those parts in which the drawn cells differ."""
    parts = {
        r.cell_key: (f"{r.engine} {r.engine_version}", r.model, r.instance, r.deployment, r.workload)
        for r in results
    }
    differing = [i for i in range(1, 5) if len({p[i] for p in parts.values()}) > 1]
    labels = {key: " · ".join([p[0], *(p[i] for i in differing if p[i])]) for key, p in parts.items()}
    doubles = {label for label in labels.values() if list(labels.values()).count(label) > 1}
    return {
        k: f"{label} · {k.rpartition('~')[0][-8:]}" if label in doubles else label
        for k, label in labels.items()
    }


def _spec(results: Sequence[Result], labels: Mapping[str, str], series: Sequence[Series]) -> dict[str, Any]:
    import altair as alt

    rows = [
        {
            "series": labels[r.cell_key],
            "concurrency": r.load_value,
            "throughput": r.output_tokens_per_s,
            "ttft": r.ttft_ms,
            "low": r.ttft_low_ms,
            "high": r.ttft_high_ms,
            "TTFT p50": "not published" if r.ttft_ms is None else f"{significant(r.ttft_ms)} ms",
            "Output": f"{significant(r.output_tokens_per_s)} tok/s",
            "Model": r.model,
            "Instance": r.instance,
            "Workload": r.workload,
            "Origin": f"{r.origin}, {r.evidence_level}",
        }
        for r in results
    ]
    loads = sorted({r.load_value for r in results})
    focus = alt.param(name="focus", value="")
    dim = alt.condition("focus === '' || focus === datum.series", alt.value(1), alt.value(0.12))
    domain, colors, shapes = [s.label for s in series], [s.color for s in series], [s.shape for s in series]
    x = alt.X("concurrency:Q", title="Concurrency").scale(
        type="log", base=2, domain=[loads[0] / 1.2, loads[-1] * 1.2], nice=False
    )
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=x.axis(values=loads, format="~s", grid=False),
        color=alt.Color("series:N", legend=None).scale(domain=domain, range=colors),
        opacity=dim,
        tooltip=[
            alt.Tooltip("series:N", title="Series"),
            alt.Tooltip("concurrency:Q", title="Concurrency"),
            *(f"{name}:N" for name in ("Output", "TTFT p50", "Model", "Instance", "Workload", "Origin")),
        ],
    )

    def panel(field: str, title: str, *reaches: str, interval: bool = False) -> alt.LayerChart:
        # Room above the highest mark: no axis label touches the title, so both titles stand level.
        highest = max((getattr(r, name) or 0.0 for r in results for name in reaches), default=0.0)
        y = alt.Y(f"{field}:Q", title=None).scale(domain=[0, highest * 1.12 or 1], nice=False)
        lines = base.mark_line(strokeWidth=2).encode(y=y)
        shape = alt.Shape("series:N", legend=None).scale(domain=domain, range=shapes)
        marks = base.mark_point(filled=True, size=70, opacity=1).encode(y=y, shape=shape)
        bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=None), y2="high:Q")
        layers = [bars, lines, marks] if interval else [lines, marks]
        return alt.layer(*layers).properties(width=460, height=240, title=title)

    panels = [panel("throughput", "Output tokens per second", "output_tokens_per_s")]
    if any(r.ttft_ms is not None for r in results):
        with_interval = any(r.ttft_low_ms is not None for r in results)
        title = "TTFT p50 in ms, and its 95 % interval" if with_interval else "TTFT p50 in ms"
        panels.append(panel("ttft", title, "ttft_ms", "ttft_high_ms", interval=True))
    chart = (
        alt.concat(*panels, columns=len(panels), bounds="flush", spacing={"row": 72, "column": 62})
        .add_params(focus)
        .configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_title(anchor="start", frame="group", fontSize=13, fontWeight=600, color=INK, offset=10)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            gridColor=GRID,
            domainColor=GRID,
            tickColor=GRID,
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
            tickCount=5,
        )
    )
    document: dict[str, Any] = json.loads(chart.to_json(validate=True))
    return document


def _svg(spec: Mapping[str, Any]) -> str:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(dict(spec), allowed_base_urls=[]))


def _summary(results: Sequence[Result], labels: Mapping[str, str]) -> str:
    """What the picture shows, for those who do not see it."""
    sentences = []
    for key, label in labels.items():
        own = sorted((r for r in results if r.cell_key == key), key=lambda r: r.load_value)
        ladder = ", ".join(
            f"{significant(r.output_tokens_per_s)} tok/s"
            + ("" if r.ttft_ms is None else f" and TTFT p50 {significant(r.ttft_ms)} ms")
            + f" at C={r.load_value:g}"
            for r in own
        )
        sentences.append(f"{label} ({own[0].origin}, {own[0].evidence_level}): {ladder}.")
    return " ".join(sentences)
