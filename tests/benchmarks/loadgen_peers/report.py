"""The tables and the verdicts, as Markdown for people and as JSON for machines.

Belongs here: which figures stand in which column, rounding, the document with its date, machine, versions and
command.
Does not belong here: what is good (``verdict``), what was measured (``execute``).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.loadgen_peers.execute import Row
from tests.benchmarks.loadgen_peers.scenarios import FLOOR, OURS
from tests.benchmarks.loadgen_peers.verdict import MET, NOT_MET, UNDECIDED, Line

Cell = Callable[[Sequence[Row]], str]


def number(value: float | None) -> str:
    """Three significant digits, whole numbers from a thousand on."""
    if value is None or value != value:
        return "–"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if size >= 100 else f"{value:.3g}"


def figure(*names: str, sep: str = " / ", scale: float = 1.0, first: bool = False) -> Cell:
    """Medians over the runs of one or more figures; with *first*, of the first name there is."""

    def cell(rows: Sequence[Row]) -> str:
        values = []
        for name in names:
            found = [one.figures[name] * scale for one in rows if name in one.figures]
            values.append(statistics.median(found) if found else None)
        if first:
            return number(next((value for value in values if value is not None), None))
        return "–" if all(value is None for value in values) else sep.join(map(number, values))

    return cell


def _counts(rows: Sequence[Row]) -> str:
    ok, failed = sum(one.ok for one in rows), sum(one.failed for one in rows)
    return f"{ok:,} / {failed:,}"


def _classes(rows: Sequence[Row]) -> str:
    return ", ".join(f"{kind} {count}" for one in rows for kind, count in one.failures.items()) or "–"


def _note(rows: Sequence[Row]) -> str:
    notes = [one.error for one in rows if one.error]
    if any(one.server_limited for one in rows):
        notes.append("server-limited")
    return "; ".join(dict.fromkeys(note for note in notes if note))


TABLES: dict[str, tuple[str, dict[str, Cell]]] = {
    "accuracy": (
        "TTFT 50 ms, gap 10 ms, 64 tokens; client minus server, ms. Ours and the floor: size of the error of each "
        "request, median of the runs; peers: difference of percentiles, one run.",
        {
            "TTFT p50 / p99": figure("ttft_error_p50_ms", "ttft_error_p99_ms"),
            "E2E p50 / p99": figure("e2e_error_p50_ms", "e2e_error_p99_ms"),
            "gap p50 / p99": figure("gap_error_p50_ms", "gap_error_p99_ms"),
            "stamp p99": figure("stamp_error_p99_ms"),
            "load kept %": figure("load_kept", scale=100),
            "CPU s/Mtok": figure("cpu_s_per_mtok"),
            "cores": figure("cores"),
            "peak MB": figure("pss_peak_mb", "rss_peak_mb", first=True),
            "server core": figure("server_core_share"),
            "ok / failed": _counts,
        },
    ),
    "capacity": (
        "No pacing, 128 tokens a request, 64 streams.",
        {
            "tokens/s": figure("tokens_per_s"),
            "requests/s": figure("requests_per_s"),
            "CPU s/Mtok": figure("cpu_s_per_mtok"),
            "cores": figure("cores"),
            "peak MB": figure("pss_peak_mb", "rss_peak_mb", first=True),
            "server core": figure("server_core_share"),
            "ok / failed": _counts,
        },
    ),
    "open": (
        "100 requests/s. Deviation: arrival at the server against the client's own schedule (ours); drift: against "
        "the straight line of the asked rate (means something for constant arrivals only).",
        {
            "rate/s": figure("rate_per_s"),
            "gap p50 / p99 ms": figure("gap_p50_ms", "gap_p99_ms"),
            "gap CV": figure("gap_cv"),
            "deviation p50 / p99 ms": figure("deviation_p50_ms", "deviation_p99_ms"),
            "drift p50 / p99 ms": figure("drift_p50_ms", "drift_p99_ms"),
            "TTFT p99 ms: client / server": figure("client_ttft_p99_ms", "truth_ttft_p99_ms"),
            "ok / failed": _counts,
        },
    ),
    "faults": (
        "1,000 requests, 64 streams, 3 % HTTP 500, 2 % resets, 1 % hangs, 1 % error events.",
        {
            "injected": figure("faults_injected"),
            "ok / failed": _counts,
            "by class": _classes,
            "misclassed": figure("faults_misclassed"),
            "partial kept / begun": figure("partial_kept", "partial_begun"),
            "whole command s": figure("whole_s"),
        },
    ),
    "busy": (
        "Four busy processes beside client and server, 256 streams. Stamp: token's stamp minus its send.",
        {
            "stamp p50 / p99 ms": figure("stamp_error_p50_ms", "stamp_error_p99_ms"),
            "TTFT p50 / p99 ms": figure("ttft_error_p50_ms", "ttft_error_p99_ms"),
            "load kept %": figure("load_kept", scale=100),
            "ok / failed": _counts,
        },
    ),
    "memory": (
        "256 tokens a request, no pacing, 64 streams.",
        {"peak MB": figure("rss_peak_mb"), "tokens/s": figure("tokens_per_s"), "ok / failed": _counts},
    ),
    "traps": (
        "160 requests, 16 streams; what each client says. True: TTFT 50, TPOT 10, gap 10 (40 at 4 tokens per chunk).",
        {
            "TTFT p50": figure("client_ttft_p50_ms"),
            "TPOT p50": figure("client_tpot_p50_ms"),
            "gap p50": figure("client_gap_p50_ms"),
            "gap mean": figure("client_gap_mean_ms"),
            "injected": figure("faults_injected"),
            "ok / failed": _counts,
        },
    ),
}


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def scenario_table(name: str, rows: Sequence[Row]) -> str:
    """One scenario's table, a line a level and client; empty without rows."""
    caption, columns = TABLES[name]
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.scenario == name:
            cells.setdefault((row.level, row.client), []).append(row)
    if not cells:
        return ""
    ordered = sorted(cells, key=lambda key: (_level_order(key[0]), _client_order(key[1])))
    body = [
        [level, client, str(len(cells[level, client]))]
        + [cell(cells[level, client]) for cell in columns.values()]
        + [_note(cells[level, client])]
        for level, client in ordered
    ]
    return f"## {name.capitalize()}\n\n{caption}\n\n{table(['load', 'client', 'runs', *columns, 'note'], body)}\n"


def start_table(rows: Sequence[Row]) -> str:
    """Command start to the first request: ours in runs of its own, the others over all their runs."""
    body = []
    for client in sorted({one.client for one in rows}, key=_client_order):
        mine = [one for one in rows if one.client == client and "start_s" in one.figures]
        if client == OURS:
            mine = [one for one in mine if one.scenario == "start"] or mine
        if mine and client != FLOOR:
            seconds = figure("start_s")(mine)
            memory = figure("pss_at_start_mb", "rss_at_start_mb", first=True)
            cells = [figure("cpu_to_start_s")(mine), memory(mine), figure("processes")(mine)]
            body.append([client, str(len(mine)), seconds, *cells])
    if not body:
        return ""
    headers = ["client", "runs", "s to first request", "CPU s to it", "MB then", "processes"]
    caption = "Medians. Memory is resident; of clients with several processes shared pages count once."
    return f"## Start\n\n{caption}\n\n{table(headers, body)}\n"


def verdict_table(lines: Sequence[Line]) -> str:
    """All lines, with their count."""
    kinds = {kind: sum(line.verdict.startswith(kind) for line in lines) for kind in (MET, NOT_MET, UNDECIDED)}
    head = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    body = [
        [line.text, line.target, line.measured, line.peer, line.ratio, _marked(line.verdict)]
        for line in lines
    ]
    return f"## Verdict\n\n{head}.\n\n{table(['line', 'target', 'measured', 'beside', 'ratio', 'verdict'], body)}\n"


def document(
    rows: Sequence[Row], lines: Sequence[Line], facts: Mapping[str, Any], problems: Mapping[str, str]
) -> str:
    """The whole page."""
    known = [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    missing = [f"- **{name} was not measured**: {why}" for name, why in problems.items()]
    if "vllm-bench" in problems or not any(one.client == "vllm-bench" for one in rows):
        missing.append("- Without vllm bench no 'best peer' line counts.")
    parts = [
        "# The load generator beside its peers",
        "Every client against the ground-truth server (`python -m loadgen truth`), which logs what it really sent; "
        "error = client's figure minus the server's of the same run. Made by `make bench-loadgen`.",
        "\n".join([*known, *missing]),
        verdict_table(lines),
        *(scenario_table(name, rows) for name in ("accuracy", "capacity")),
        start_table(rows),
        *(scenario_table(name, rows) for name in ("open", "faults", "busy", "memory", "traps")),
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def save_json(
    path: Path,
    rows: Sequence[Row],
    lines: Sequence[Line],
    facts: Mapping[str, Any],
    problems: Mapping[str, str],
) -> None:
    """Everything, for machines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "facts": dict(facts),
        "problems": dict(problems),
        "verdict": [asdict(line) for line in lines],
        "rows": [row.as_json() for row in rows],
    }
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _marked(verdict: str) -> str:
    return verdict if verdict == MET else f"**{verdict}**"


def _client_order(client: str) -> tuple[int, str]:
    return (0 if client == OURS else 1 if client == FLOOR else 2, client)


def _level_order(level: str) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, level))
    return (int(digits) if digits else 0, level)
