"""``python -m loadgen``: run a plan or a workload against a server; the ground-truth server; the list of
workloads.

Belongs here: arguments, exit codes (0 done, 1 failed, 2 wrong usage, 130 interrupted), the one sentence on
standard error.
Does not belong here: anything that measures. Imports stay small, since the first request waits for them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.plan import Plan

STARTED_NS = time.perf_counter_ns()


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["truth"]:
        from loadgen.truth.server import main as truth_main

        return truth_main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m loadgen", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("workloads", help="list the packaged workload profiles")
    commands.add_parser(
        "truth", help="the ground-truth server (truth --help tells its options)", add_help=False
    )
    _run_arguments(commands.add_parser("run", help="put load on a server and keep a sample of every request"))
    options = parser.parse_args(arguments)
    return _list_workloads() if options.command == "workloads" else _run(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--plan", type=Path, help="a plan in JSON; it replaces every option but --out and --progress")
    add("--out", required=True, help="a folder, file:// or s3://bucket/prefix")
    add("--progress", choices=("human", "json", "quiet"), default="human")
    add("--url", action="append", default=[], help="base URL of a server; again for each further replica")
    add("--model", help="the model's name as the server knows it")
    add("--workload", help="id of a packaged profile, or a YAML or JSON file")
    add(
        "--concurrency",
        type=int,
        action="append",
        help="closed loop: users, each with one request at a time; repeatable",
    )
    add("--rate", type=float, action="append", help="open loop: arrivals a second; repeatable")
    add("--arrival", choices=("poisson", "constant"), default="poisson")
    add("--isl", type=int, default=256, help="input tokens (256)")
    add("--osl", type=int, default=128, help="output tokens (128)")
    add("--requests", type=int, help="end the window after so many requests")
    add("--duration", type=float, default=60.0, help="the window in seconds (60)")
    add("--warmup", type=float, default=5.0, help="warm-up before each window in seconds (5)")
    add("--natural-stop", action="store_true", help="do not send ignore_eos and min_tokens")
    add("--api", choices=("chat", "completions"), default="chat")
    add("--no-stream", action="store_true", help="ask for whole answers")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    add("--header", action="append", default=[], metavar="NAME=VALUE")
    add(
        "--seed",
        type=int,
        help="of prompts and arrivals; a fresh one each time, so that no cache knows the prompts",
    )
    add("--request-timeout", type=float, help="seconds (the workload's, 60 for flags)")
    add(
        "--idle-timeout",
        type=float,
        help="seconds of silence within an answer (the workload's, 30 for flags)",
    )
    add("--deadline", type=float, help="seconds for the whole command (1.5 x the planned time + 60)")
    add("--run-id", help="the samples' run_id (made from the time)")


def _list_workloads() -> int:
    from loadgen import workloads

    for name in workloads.names():
        item = workloads.load(name)
        ladder = ", ".join(f"{value:g}" for _, value, _ in item.ladder)
        load = f"{item.ladder[0][0]} {ladder}"
        lengths = f"{item.isl:>5} in {item.osl:>5} out"
        print(f"{name:<16} {item.evidence_level:<12} {lengths}  {load}  {item.window_s:g} s a step")
    return 0


def _run(options: argparse.Namespace) -> int:
    from loadgen.output import OutputError
    from loadgen.plan import Plan, PlanError
    from loadgen.progress import Progress
    from loadgen.run import run_plan

    try:
        plan = Plan.read(options.plan) if options.plan else _plan_from_flags(options)
        code, reason = run_plan(plan, options.out, Progress(options.progress), STARTED_NS)
    except (PlanError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OutputError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
    return code


def _plan_from_flags(options: argparse.Namespace) -> Plan:
    """A plan from the command line; raises ``PlanError`` naming the option."""
    from loadgen import workloads
    from loadgen.plan import Plan, PlanError, Replica

    if not options.url or not options.model:
        raise PlanError("--url and --model are needed (or --plan)")
    if options.workload:
        if options.concurrency or options.rate or options.requests:
            raise PlanError(
                "--workload: it brings its own load; leave out --concurrency, --rate and --requests"
            )
        workload = workloads.load(options.workload)
    else:
        workload = workloads.custom(
            concurrency=options.concurrency,
            rate=options.rate,
            isl=options.isl,
            osl=options.osl,
            duration_s=options.duration,
            warmup_s=options.warmup,
            arrival=options.arrival,
            requests=options.requests,
            ignore_eos=not options.natural_stop,
            request_timeout_s=options.request_timeout or 60.0,
            idle_timeout_s=options.idle_timeout or 30.0,
        )
    headers = dict(header.partition("=")[::2] for header in options.header)
    steps = workload.steps()
    planned_s = sum(step.warmup_s + step.window_s + step.tail_s for step in steps)
    urls = [url.rstrip("/") for url in options.url]
    return Plan(
        run_id=options.run_id or time.strftime("run-%Y%m%dt%H%M%S", time.gmtime()),
        model=options.model,
        replicas=tuple(Replica(url.partition("://")[2], url) for url in urls),
        steps=steps,
        workload=workload.document,
        workload_id=workload.id,
        workload_hash=workload.hash,
        seed=int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed,
        request_timeout_s=options.request_timeout or workload.request_timeout_s,
        idle_timeout_s=options.idle_timeout or workload.idle_timeout_s,
        deadline_s=options.deadline or 1.5 * planned_s + 60,
        api=options.api,
        stream=not options.no_stream,
        api_key_env=options.api_key_env,
        headers=headers,
    )


if __name__ == "__main__":
    sys.exit(main())
