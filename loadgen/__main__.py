"""``python -m loadgen``: run a plan or a workload against a server; the ground-truth server; the list of
workloads; what a killed run left.

Belongs here: subcommands, exit codes (0 done, 1 failed, 2 wrong usage, 130 interrupted), the one sentence on
standard error.
Does not belong here: the options of a run (``flags``), anything that measures. Imports stay small, since the first
request waits for them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.plan import Plan

STARTED_NS = time.perf_counter_ns()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(130)


if os.getpid() == 1:  # in a container: the kernel drops signals that a first process does not handle
    signal.signal(signal.SIGTERM, _leave)  # until the run takes over


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["truth"]:
        from loadgen.truth.server import main as truth_main

        return truth_main(arguments[1:])
    if arguments[:1] == ["recover"]:
        from loadgen.recover import main as recover_main

        return recover_main(arguments[1:])
    from loadgen.flags import add_arguments

    parser = argparse.ArgumentParser(
        prog="python -m loadgen", description=(__doc__ or "").partition("\n\n")[0], allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("workloads", help="list the packaged workload profiles")
    commands.add_parser(
        "truth", help="the ground-truth server (truth --help tells its options)", add_help=False
    )
    commands.add_parser(
        "recover", help="turn what a killed run left in its output folder into samples", add_help=False
    )
    run = commands.add_parser(
        "run",
        help="put load on a server and keep a sample of every request",
        description="Put load on a server and keep a sample of every request. A closed loop (--concurrency) "
        "measures a server at a set number of users, an open loop (--rate) users who do not wait; "
        "--find-capacity looks for the largest load that meets --slo.",
    )
    add_arguments(run)
    options = parser.parse_args(arguments)
    return _list_workloads() if options.command == "workloads" else _run(options)


def _list_workloads() -> int:
    from loadgen import workloads

    for name in workloads.names():
        item = workloads.load(name)
        ladder = ", ".join(f"{value:g}" for _, value, _ in item.ladder)
        load = f"{item.ladder[0][0]} {ladder}" if item.ladder else "-"
        lengths = f"{item.isl:>5} in {item.osl:>5} out"
        print(f"{name:<21} {item.evidence_level:<12} {lengths}  {load}  {item.window_s:g} s a step")
    return 0


def _run(options: argparse.Namespace) -> int:
    from loadgen.output import OutputError
    from loadgen.plan import PlanError

    try:
        if options.as_worker:
            from loadgen.workers import run_worker

            code, reason = run_worker(options.out, STARTED_NS)
        else:
            from loadgen.flags import plan_of

            code, reason = _drive(plan_of(options), options)
    except (PlanError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OutputError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
    return code


def _drive(plan: Plan, options: argparse.Namespace) -> tuple[int, str | None]:
    from loadgen.progress import Progress

    if plan.workers > 1:
        from loadgen.workers import run_workers

        return run_workers(plan, options.out, Progress(options.progress), STARTED_NS)
    from loadgen.run import run_plan

    return run_plan(plan, options.out, Progress(options.progress), STARTED_NS)


if __name__ == "__main__":
    sys.exit(main())
