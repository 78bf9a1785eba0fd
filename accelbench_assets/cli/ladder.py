"""The table of a run's ladder, for terminals of 80 to 200 columns.

Belongs here: which figures a person sees first, in which layout, with the gates and origin said beside them.
Does not belong here: reading (``results``), computing (``bench``), the JSON form (``RunResults.document``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.costing import one_offer
from accelbench_assets.cli.output import GAP, console, new_table, number, plain, share, styled
from accelbench_assets.cli.progress import load_label
from accelbench_assets.cli.results import RunResults, quantile_cell

if TYPE_CHECKING:
    from rich.table import Table

LATENCIES = (
    ("TTFT", "ttft", ("p50", "p90", "p99")),
    ("TPOT", "tpot", ("p50",)),
    ("ITL", "itl", ("p50", "p99")),
    ("E2E", "e2e", ("p50", "p99")),
)


def figures(
    step: Mapping[str, Any], *, compact: bool, tier: str | None = None, usd_per_1m: float | None = None
) -> list[tuple[str, str]]:
    """(heading, cell) of one step, in reading order; a heading's line break separates metric and statistic.

    *tier* adds the cost column, the same for all steps of a table.
    """
    kind, value = str(step.get("load_kind")), float(step.get("load_value") or 0)
    cells = [("load", load_label(kind, value))]
    percentiles = step.get("percentiles") or {}
    for title, metric, quantiles in LATENCIES:
        for q in quantiles:
            cells.append((f"{title} ms\n{q}", quantile_cell(percentiles.get(metric), q, compact=compact)))
    cells += [
        ("output\ntok/s", number(step.get("output_tokens_per_s"))),
        ("req/s\n", number(step.get("requests_per_s"))),
        ("errors\n", share(step.get("error_rate"))),
        ("valid\n", str(step.get("verdict") or "-")),
    ]
    if tier is not None:
        cells.append((f"$/1M out\n{tier}", number(usd_per_1m)))
    return cells


def cost_rows(results: RunResults) -> dict[int, Mapping[str, Any]]:
    """One priced row a step, at the offer that counts: declared, else on demand in the region of the settings."""
    return {
        row["step_index"]: row
        for row in one_offer(results.cost)
        if row.get("usd_per_1m_output_full_hour") is not None
    }


def cost_line(results: RunResults) -> str:
    """What the cost is based on, or why there is none."""
    priced = cost_rows(results)
    if priced:
        row = next(iter(priced.values()))
        hourly, day = number(row.get("instance_hourly_usd")), str(plain(row.get("price_as_of")) or "")[:10]
        # Not "declared for this run": the latest price holds for every run of the machine.
        whose = "endpoint" if str(row.get("instance_type")).startswith("endpoint-") else "machine"
        places = [str(row[name]) for name in ("tier", "region") if row.get(name)]
        how = f"this {whose}'s declared price" if row.get("tier") == "declared" else " in ".join(places)
        return f"cost: at {hourly} USD/h, {how}" + (f" as of {day}" if day else "")
    return f"cost: none ({missing_cost(results)})"


def has_price(results: RunResults) -> bool:
    """Whether a price of the run's instance is known, whatever the run itself says of it."""
    return any(row.get("instance_hourly_usd") is not None for row in results.cost)


def missing_cost(results: RunResults) -> str:
    """Why there is no cost figure, and what would give one."""
    rows = one_offer(results.cost) or results.cost
    said = next((row["missing_reason"] for row in rows if row.get("missing_reason")), None)
    reason = str(said or results.record.get("cost_missing_reason") or "no price is known for this instance")
    known = "--usd-per-hour" in reason or has_price(results)
    return reason if known else f"{reason}; --usd-per-hour declares one"


def title_lines(record: Mapping[str, Any], host: str | None) -> tuple[str, str]:
    """What was measured, and how much it may be trusted."""
    quantization = record.get("quantization")
    model = f"{record.get('model_id') or record.get('cell_key')}"
    weights = f" ({quantization})" if quantization and quantization != "none" else ""
    served = f"{record.get('engine')} {record.get('engine_version')}"
    where = f"{record.get('instance_type')}" + (f", {host}" if host else "")
    what = f"{model}{weights} on {served}, {where}"
    trust = (
        f"origin: {record.get('origin')} · evidence level: {record.get('evidence_level')} · "
        f"workload: {record.get('workload_id')} · hardware: {record.get('hardware')}"
    )
    return what, trust


def ladder_tables(results: RunResults, width: int) -> tuple[list[Table], bool]:
    """The ladder in the first layout that fits *width*: full, compact, or transposed in blocks of steps.

    The second value says whether cells are in their compact form, which needs a legend.
    """
    costs = cost_rows(results)

    tier = str(next(iter(costs.values()))["tier"]) if costs else None

    def grid(compact: bool) -> list[list[tuple[str, str]]]:
        return [
            figures(
                step,
                compact=compact,
                tier=tier,
                usd_per_1m=costs.get(step["step_index"], {}).get("usd_per_1m_output_full_hour"),
            )
            for step in results.steps
        ]

    if not results.steps:
        return [], False
    for compact in (False, True):
        rows = grid(compact)
        if _needed(rows) <= width:
            return [_table([h for h, _ in rows[0]], [[c for _, c in row] for row in rows])], compact
    compact = _transposed_width(grid(False)) > width
    return [_transposed(block) for block in _blocks(grid(compact), width)], compact


def _needed(rows: Sequence[Sequence[tuple[str, str]]]) -> int:
    widths = [
        max(max(len(part) for part in column[0][0].split("\n")), max(len(cell) for _, cell in column))
        for column in zip(*rows, strict=True)
    ]
    return sum(widths) + GAP * (len(widths) - 1)


def _label(heading: str) -> str:
    return heading.replace("\n", " ").strip()


def _transposed_width(rows: Sequence[Sequence[tuple[str, str]]]) -> int:
    label = max(len(_label(h)) for row in rows for h, _ in row)
    return label + sum(GAP + max(len(c) for _, c in row) for row in rows)


def _blocks(rows: list[list[tuple[str, str]]], width: int) -> list[list[list[tuple[str, str]]]]:
    blocks: list[list[list[tuple[str, str]]]] = []
    for row in rows:
        if blocks and _transposed_width([*blocks[-1], row]) <= width:
            blocks[-1].append(row)
        else:
            blocks.append([row])
    return blocks


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = new_table()
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(styled, row))
    return table


def _transposed(block: Sequence[Sequence[tuple[str, str]]]) -> Table:
    headings = ["", *(row[0][1] for row in block)]
    lines = [[_label(block[0][i][0]), *(row[i][1] for row in block)] for i in range(1, len(block[0]))]
    return _table(headings, lines)


def legend(results: RunResults, *, compact: bool) -> list[str]:
    """Explanations of the marks that occur."""
    gates = {
        (step.get("percentiles") or {}).get(metric, {}).get(f"{q}_gate")
        for step in results.steps
        for _, metric, quantiles in LATENCIES
        for q in quantiles
    }
    lines = []
    if "needs_n" in gates and compact:
        lines.append("n>=X: needs >= X requests before this quantile may be given")
    if "wide" in gates:
        lines.append(
            "~: rests on few or correlated requests (at level demo a median describes its window only)"
        )
    if "beyond_timeout" in gates:
        lines.append(">timeout: the quantile falls on a request that failed")
    return lines


def print_ladder(results: RunResults, *, host: str | None = None) -> None:
    """Title, table, legend and cost line on stdout."""
    from rich.text import Text

    out = console()
    what, trust = title_lines(results.record, host)
    out.print(Text(what, style="bold"))
    out.print(Text(trust, style="yellow" if results.record.get("origin") != "measured" else ""))
    out.print()
    tables, compact = ladder_tables(results, out.width)
    for table in tables:
        out.print(table)
        out.print()
    for line in [*legend(results, compact=compact), cost_line(results)]:
        out.print(Text(line, style="dim"))


def validity_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The validity rules of a run as rows: rule, verdict, value, limit, text."""
    validity = record.get("validity")
    if isinstance(validity, str):
        import json

        validity = json.loads(validity or "{}")
    found = []
    for rule, outcome in (validity or {}).items():
        details = outcome if isinstance(outcome, Mapping) else {"verdict": outcome}
        found.append({"rule": rule, **{k: details.get(k) for k in ("verdict", "value", "limit", "text")}})
    return found


def worst_verdict(record: Mapping[str, Any]) -> str:
    """The worst verdict of a run's validity rules: ``pass``, ``warn`` or ``void``; ``-`` without any."""
    order = ("pass", "warn", "void")
    found = [str(row["verdict"]) for row in validity_rows(record) if row["verdict"] in order]
    return max(found, key=order.index, default="-")


def verdict_line(record: Mapping[str, Any]) -> str:
    """How many validity rules passed, and every one that did not, with its reason."""
    found = validity_rows(record)
    passed = sum(row["verdict"] == "pass" for row in found)
    lines = [f"validity: {passed} of {len(found)} rules passed"]
    lines += [
        f"  {row['verdict']}: {row['rule']}: {row['text'] or row['value']}"
        for row in found
        if row["verdict"] != "pass"
    ]
    return "\n".join(lines)
