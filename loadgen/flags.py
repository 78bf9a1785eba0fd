"""The options of ``python -m loadgen run`` and the plan they make.

Belongs here: flags, their help, what may not be combined. Does not belong here: running (``run``, ``workers``), exit
codes (``__main__``). Imports stay small: the first request waits for them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadgen.plan import Plan
    from loadgen.workloads import Workload

_POINTS = 24  # a capacity search seldom measures more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options of ``run``, in groups."""
    add = parser.add_argument
    add(
        "--plan",
        type=Path,
        help="a plan in JSON; it replaces every option but --out, --progress and --shard-index",
    )
    add(
        "--shard-index",
        metavar="I",
        type=int,
        help="with --plan: be shard I (from 0) of the plan's shards, as each of a Job's pods that share one plan",
    )
    add("--out", required=True, help="a folder, file:// or s3://bucket/prefix")
    add("--progress", choices=("human", "json", "quiet"), default="human")
    add("--as-worker", action="store_true", help=argparse.SUPPRESS)
    _server(parser.add_argument_group("server"))
    _load(parser.add_argument_group("load"))
    _capacity(parser.add_argument_group("capacity search"))
    _processes(parser.add_argument_group("processes"))


def _server(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", action="append", default=[], help="base URL of a server; again for each further replica")
    add(
        "--model",
        action="append",
        default=[],
        help="the model's name as the server knows it; again for each of a pool",
    )
    add("--api", choices=("chat", "completions"), help="(the workload's, chat for flags)")
    add("--no-stream", action="store_true", help="ask for whole answers")
    add("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    add("--header", action="append", default=[], metavar="NAME=VALUE")
    add("--proxy", metavar="URL", help="http://host:port of a proxy, without credentials")
    add("--proxy-env", metavar="NAME", help="environment variable that holds a proxy's URL with credentials")
    add("--http2", action="store_true", help="speak HTTP/2 (its own profile: not comparable with HTTP/1.1)")
    add("--fresh-connections", action="store_true", help="a new connection for every request")
    add("--request-timeout", metavar="S", type=float, help="seconds (the workload's, 60 for flags)")
    add(
        "--idle-timeout",
        metavar="S",
        type=float,
        help="seconds of silence within an answer (the workload's, 30 for flags)",
    )


def _load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--workload", metavar="ID", help="id of a packaged profile, or a YAML or JSON file")
    add(
        "--dataset",
        metavar="FILE",
        help="your own requests (JSONL) or trace, for a workload that asks for it; a path or s3://bucket/key",
    )
    add(
        "--concurrency",
        metavar="N",
        type=int,
        action="append",
        help="closed loop: users, each with one request at a time; repeatable",
    )
    add("--rate", metavar="R", type=float, action="append", help="open loop: arrivals a second; repeatable")
    add(
        "--arrival",
        metavar="LAW",
        default="poisson",
        help="of an open loop: poisson (default), constant or gamma:K",
    )
    add("--isl", metavar="N", type=int, default=256, help="input tokens (256)")
    add("--osl", metavar="N", type=int, default=128, help="output tokens (128)")
    add("--requests", metavar="N", type=int, help="end the window after so many requests")
    add("--duration", metavar="S", type=float, default=60.0, help="the window in seconds (60)")
    add("--warmup", metavar="S", type=float, default=5.0, help="warm-up before each window in seconds (5)")
    add(
        "--warmup-rule",
        choices=("time", "state"),
        default="time",
        help="state: warm up until the server is steady, at least --warmup seconds",
    )
    add(
        "--warmup-max",
        metavar="S",
        type=float,
        default=600.0,
        help="the longest warm-up by state in seconds (600)",
    )
    add("--natural-stop", action="store_true", help="do not send ignore_eos and min_tokens")
    add(
        "--seed",
        metavar="N",
        type=int,
        help="of prompts and arrivals; a fresh one each time, so that no cache knows the prompts",
    )
    add("--canary", action="store_true", help="check the answers to 64 short questions after the last step")


def _capacity(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--find-capacity", action="store_true", help="look for the largest load that meets --slo")
    add(
        "--slo",
        metavar="SLO",
        help="interactive, chat, server, batch, or clauses in ms: ttft=1000,tpot=50,e2e=9000@0.95 "
        "(@: share of requests that meet them, 0.99)",
    )
    add("--max-concurrency", metavar="N", type=int, help="the most users the search tries (4096)")


def _processes(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--workers", metavar="N", type=int, default=1, help="generator processes that divide the load (1)")
    add("--shard", metavar="I/N", help="run part I (from 0) of the same schedule on N hosts")
    add("--start-at", type=float, metavar="UNIX", help="begin the first step at this time, as all shards do")
    add(
        "--no-null-server", action="store_true", help="do not measure this client's own ceiling after the run"
    )
    add(
        "--deadline",
        metavar="S",
        type=float,
        help="seconds for the whole command (1.5 x the planned time + 60)",
    )
    add("--run-id", metavar="ID", help="the samples' run_id (made from the time)")


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan in the file, as the shard asked for, or that of the flags. Raises ``PlanError``, ``OSError``."""
    from loadgen.plan import Plan, PlanError

    index: int | None = options.shard_index
    if not options.plan:
        if index is not None:
            raise PlanError("--shard-index: it picks a shard of a --plan; with flags, write --shard I/N")
        return plan_from(options)
    plan = Plan.read(options.plan)
    if index is None:
        return plan
    if not 0 <= index < plan.shards:
        allowed = f"0..{plan.shards - 1}" if plan.shards > 1 else "0, the plan having one shard"
        raise PlanError(f"--shard-index: {index} is not {'in ' if plan.shards > 1 else ''}{allowed}")
    return dataclasses.replace(plan, shard=index)


def plan_from(options: argparse.Namespace) -> Plan:
    """A plan from the command line; raises ``PlanError`` naming the option."""
    from loadgen.plan import Plan, PlanError, Replica

    if not options.url or not options.model:
        raise PlanError("--url and --model are needed (or --plan)")
    if options.workload and (options.concurrency or options.rate or options.requests):
        raise PlanError("--workload: it brings its own load; leave out --concurrency, --rate and --requests")
    for name in (
        "concurrency",
        "rate",
        "isl",
        "osl",
        "requests",
        "duration",
        "warmup_max",
        "workers",
        "deadline",
    ):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not 0 < value < math.inf:
                raise PlanError(f"--{name.replace('_', '-')}: {value:g} must be a positive number")
    if options.concurrency and options.rate:
        raise PlanError("--concurrency, --rate: a loop is closed or open; give one of them")
    if not options.workload and not options.find_capacity and not (options.concurrency or options.rate):
        raise PlanError("--workload, --concurrency, --rate: one of them says what load to put on the server")
    if options.workload and options.warmup_rule != "time":
        raise PlanError("--warmup-rule: the workload brings its own; leave it out")
    workload = _workload(options)
    steps = workload.steps()
    if options.warmup_rule == "state":
        changes = {"warmup_rule": "state", "warmup_max_s": options.warmup_max}
        steps = tuple(dataclasses.replace(step, **changes) for step in steps)
    search = _search(options, workload)
    shard, shards = _shard(options.shard)
    one_s = [step.warmup_limit_s + step.window_s + step.tail_s for step in steps]
    planned_s = _POINTS * one_s[0] if search is not None else sum(one_s)
    urls = [url.rstrip("/") for url in options.url]
    return Plan(
        run_id=options.run_id or time.strftime("run-%Y%m%dt%H%M%S", time.gmtime()),
        model=options.model[0],
        models=tuple(options.model) if len(options.model) > 1 else (),
        replicas=tuple(Replica(url.partition("://")[2], url) for url in urls),
        steps=steps,
        workload=workload.document,
        workload_id=workload.id,
        workload_hash=workload.hash,
        seed=int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed,
        request_timeout_s=options.request_timeout or workload.request_timeout_s,
        idle_timeout_s=options.idle_timeout or workload.idle_timeout_s,
        deadline_s=options.deadline or 1.5 * planned_s + 60,
        api=options.api or workload.api,
        stream=not options.no_stream,
        api_key_env=options.api_key_env,
        headers=dict(header.partition("=")[::2] for header in options.header),
        shard=shard,
        shards=shards,
        dataset=options.dataset,
        workers=options.workers,
        search=search,
        proxy=options.proxy,
        proxy_env=options.proxy_env,
        http_version="2" if options.http2 else "1.1",
        fresh_connections=options.fresh_connections,
        canary=options.canary,
        null_server=not options.no_null_server,
        start_at_unix=options.start_at,
    )


def _workload(options: argparse.Namespace) -> Workload:
    from loadgen import workloads

    if options.workload:
        return workloads.load(options.workload)
    concurrency = options.concurrency
    if options.find_capacity and not options.rate:
        concurrency = concurrency or [1]
    return workloads.custom(
        concurrency=concurrency,
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


def _search(options: argparse.Namespace, workload: Workload) -> dict[str, Any] | None:
    from loadgen.plan import PlanError

    if not options.find_capacity:
        if options.slo or options.max_concurrency:
            raise PlanError("--slo, --max-concurrency: they belong to --find-capacity")
        return None
    if options.requests:
        raise PlanError("--requests: a capacity search measures each point for --duration seconds")
    if not options.slo and not workload.slo:
        raise PlanError("--slo: the search needs an objective, such as --slo chat")
    if options.slo:
        from loadgen.capacity import parse_slo

        slo: dict[str, Any] = parse_slo(options.slo)
    else:
        slo = {name: value for name, value in dict(workload.slo or {}).items() if value is not None}
    search: dict[str, Any] = {"slo": slo}
    if options.max_concurrency is not None:
        search["max_concurrency"] = options.max_concurrency
    if not options.workload:
        search["arrival"] = options.arrival
    return search


def _shard(text: str | None) -> tuple[int, int]:
    from loadgen.plan import PlanError

    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise PlanError(f"--shard: {text!r} is not of the form I/N with I from 0 to N - 1")
    return int(index), int(count)
