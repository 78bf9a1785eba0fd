"""``python -m tests.benchmarks.loadgen_peers``: install the peers, run every job, print and save the tables.

Belongs here: arguments, the order of things, the time budget, what is saved when it is interrupted.
Does not belong here: anything that measures or judges.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.loadgen_peers import report, venvs
from tests.benchmarks.loadgen_peers.clients import Client, Floor, Ours
from tests.benchmarks.loadgen_peers.execute import Row, execute
from tests.benchmarks.loadgen_peers.measure import machine
from tests.benchmarks.loadgen_peers.peers import PEERS
from tests.benchmarks.loadgen_peers.processes import ROOT
from tests.benchmarks.loadgen_peers.scenarios import SCENARIOS, Job, plan
from tests.benchmarks.loadgen_peers.tokenizer import ensure_tokenizer
from tests.benchmarks.loadgen_peers.verdict import judge

_BUSY_LOAD = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """0: done (whatever the verdicts say); 1: ours could not be measured; 130: interrupted, and saved so far."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGINT, _interrupt)  # a background job ignores it by default
    signal.signal(signal.SIGTERM, _interrupt)
    facts: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), **machine()}
    facts["command"] = shlex.join(["python", "-m", "tests.benchmarks.loadgen_peers", *arguments])
    began = time.monotonic()
    clients, problems = _clients(options, facts)
    facts["install_s"] = round(time.monotonic() - began)
    if facts["load_average_1min"] > _BUSY_LOAD:
        say(f"The machine is busy (load average {facts['load_average_1min']}): latencies here say little.")
    names = [name for name in clients if name in PEERS]
    jobs = plan(names, runs=options.runs, quick=options.quick, only=options.only)
    rows: list[Row] = []
    work = options.work.resolve()
    code = 0
    try:
        _run_all(jobs, clients, rows, work, options)
    except KeyboardInterrupt:
        say("Interrupted; what was measured so far is saved.")
        code = 130
    facts["took_s"] = round(time.monotonic() - began)
    lines = judge(rows)
    page = report.document(rows, lines, facts, problems).replace(f"{ROOT}/", "")
    print("\n" + page, flush=True)
    report.save_json(options.out, rows, lines, facts, problems)
    say(f"Saved {options.out}")
    whole = not options.quick and not options.only and code == 0
    docs = options.docs or (ROOT / "docs" / "benchmarks" / "loadgen.md" if whole else None)
    if docs is not None:
        docs.parent.mkdir(parents=True, exist_ok=True)
        docs.write_text(page, encoding="utf-8")
        say(f"Saved {docs}")
    if not options.keep:
        shutil.rmtree(work, ignore_errors=True)
    measured = any(row.client == Ours.name and row.error is None for row in rows)
    return code or (0 if measured else 1)


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.loadgen_peers", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    home = ROOT / ".accelbench"
    add(
        "--quick",
        action="store_true",
        help="a few minutes: one run of each, 64 and 256 streams, vllm bench only",
    )
    add("--only", action="append", default=[], choices=tuple(SCENARIOS), help="a scenario; repeatable")
    add("--peers", help=f"comma-separated, of {', '.join(PEERS)}; none: '' (all; with --quick vllm-bench)")
    add("--runs", type=int, default=5, help="of ours and the floor in each accuracy cell (5)")
    add(
        "--budget",
        type=float,
        default=20.0,
        help="minutes; jobs no verdict needs are left out beyond it (20)",
    )
    add(
        "--venvs",
        type=Path,
        default=home / "peers",
        help="where the peers' environments are (.accelbench/peers)",
    )
    add("--no-install", action="store_true", help="use the environments that are there")
    add("--out", type=Path, default=home / "benchmarks" / "loadgen.json", help="the JSON result")
    add("--docs", type=Path, help="the Markdown page (a whole run: docs/benchmarks/loadgen.md; else none)")
    add("--work", type=Path, default=home / "peers-work", help="folder for logs while it runs")
    add("--keep", action="store_true", help="keep that folder")
    add("--list", action="store_true", help="show the jobs and their estimated times, and stop")
    return parser


def _clients(options: argparse.Namespace, facts: dict[str, Any]) -> tuple[dict[str, Client], dict[str, str]]:
    """Ours, the floor, and the peers that can be had; why the others cannot."""
    clients: dict[str, Client] = {Ours.name: Ours(), Floor.name: Floor()}
    wanted = ["vllm-bench"] if options.quick else list(PEERS)
    if options.peers is not None:
        wanted = [name for name in options.peers.split(",") if name]
    if unknown := set(wanted) - set(PEERS):
        raise SystemExit(f"error: --peers: {sorted(unknown)[0]!r} is none of {', '.join(PEERS)}")
    problems = {name: "left out by --peers or --quick" for name in PEERS if name not in wanted}
    built = venvs.prepare(wanted, options.venvs, install=not options.no_install, say=say)
    problems |= {one.name: one.problem for one in built.values() if one.problem is not None}
    ready = [one for one in built.values() if one.problem is None]
    if ready:
        try:
            tokenizer = ensure_tokenizer(options.venvs.resolve(), ready[0].venv / "bin" / "python")
        except RuntimeError as error:
            return clients, problems | {one.name: str(error) for one in ready}
        for one in ready:
            clients[one.name] = PEERS[one.name](one.venv, tokenizer)
            facts[one.name] = one.version
    return clients, problems


def _run_all(
    jobs: Sequence[Job], clients: dict[str, Client], rows: list[Row], work: Path, options: argparse.Namespace
) -> None:
    planned = sum(job.estimate_s for job in jobs if job.essential)
    more = sum(job.estimate_s for job in jobs if not job.essential)
    say(
        f"{len(jobs)} jobs: about {planned / 60:.0f} min, and {more / 60:.0f} min more as far as the budget goes."
    )
    if options.list:
        for job in jobs:
            say(f"{job.name:<44} {job.estimate_s:5.0f} s{'' if job.essential else '  (if time is left)'}")
        raise SystemExit(0)
    began = time.monotonic()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(work)
    for number, job in enumerate(jobs, 1):
        elapsed = time.monotonic() - began
        if not job.essential and elapsed + job.estimate_s > options.budget * 60:
            rows.append(
                Row(
                    job.scenario,
                    job.level,
                    job.client,
                    job.run,
                    error=f"not run: over {options.budget:g} min",
                )
            )
            continue
        row = execute(job, clients[job.client], work, keep=options.keep)
        rows.append(row)
        end = row.error or ("server-limited" if row.server_limited else f"{row.ok} ok, {row.failed} failed")
        say(f"[{number}/{len(jobs)} {elapsed:5.0f} s] {job.name}: {end} ({row.elapsed_s:.1f} s)")


if __name__ == "__main__":
    sys.exit(main())
