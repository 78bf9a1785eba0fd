"""The load of ``accelbench run``: from its flags to a workload, its options and its deadline.

Belongs here: every check of the flags that say what is sent, how and for how long.
Does not belong here: what is served (``target``), what a workload may be (``loadgen.workloads``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelbench_assets.cli.options import near, split_list
from accelbench_assets.errors import UsageError

if TYPE_CHECKING:
    from accelbench_assets.cli.target import Flags
    from loadgen.workloads import Workload

DEFAULT_WORKLOAD = "demo.chat@1"
MAX_LOAD_S = 1800.0
"""Longest planned load of an on-demand run without a --deadline."""
SEARCH_STEPS = 19
"""What a capacity search is planned for: a ladder to 64 users, five bisections, seven open-loop points."""
DEFAULT_WINDOW_S = 60.0
SMOKE_WINDOW_S = 120.0
"""Shortest window of the evidence level ``smoke``; a load made of flags never claims more than that."""


def _numbers(flag: str, values: tuple[str, ...], kind: type[int] | type[float]) -> list[Any]:
    found = []
    for part in split_list(flag, list(values)):
        try:
            value = kind(part)
        except ValueError:
            value = kind(0)
        if not 0 < value < 1_000_000:
            what = "a whole number >= 1" if kind is int else "a number > 0"
            raise UsageError(f"{flag}: {part!r} is not {what} and < 1,000,000.")
        if value in found:
            raise UsageError(f"{flag}: {part} is given twice; each step of the ladder has its own load.")
        found.append(value)
    return found


def own_load(flags: Flags) -> dict[str, Any]:
    """The flags that make a load of their own, by name."""
    return {
        "--concurrency": flags.concurrency,
        "--rate": flags.rate,
        "--isl": flags.isl,
        "--osl": flags.osl,
        "--duration": flags.duration,
        "--warmup": flags.warmup,
        "--arrival": flags.arrival,
        "--api": flags.api,
        "--http2": flags.http2,
        "--fresh-connections": flags.fresh_connections,
        "--natural-stop": flags.natural_stop,
    }


def choose_workload(flags: Flags) -> Workload:
    """The named workload, the file, or one made of the load's own flags. Raises ``UsageError`` naming the flag."""
    from loadgen import workloads
    from loadgen.plan import PlanError

    given = [name for name, value in own_load(flags).items() if value not in (None, (), False)]
    if flags.workload is not None and given:
        raise UsageError(f"{given[0]} cannot be combined with --workload: a workload fixes its own load.")
    try:
        if flags.workload is not None or not given:
            name = flags.workload or DEFAULT_WORKLOAD
            if name not in workloads.names() and not Path(name).is_file():
                known = near(name, workloads.names())
                raise UsageError(f"--workload: {name!r} is neither a workload nor a file. {known}")
            if flags.slo is not None and not flags.find_capacity:
                raise UsageError(
                    f"--slo: workload {name} has its own objective; beside a workload --slo goes with --find-capacity."
                )
            return workloads.load(name)
        return _own_workload(flags, given)
    except PlanError as error:
        raise UsageError(
            f"--workload: {error}." if flags.workload else f"The load flags do not work: {error}."
        ) from None


def _own_workload(flags: Flags, given: list[str]) -> Workload:
    from loadgen import workloads

    if flags.concurrency and flags.rate:
        raise UsageError("--concurrency and --rate exclude each other: a loop is closed or open.")
    if flags.find_capacity and (flags.concurrency or flags.rate):
        raise UsageError("--find-capacity finds the load itself: leave out --concurrency and --rate.")
    concurrency = _numbers("--concurrency", flags.concurrency, int) or None
    if flags.find_capacity:
        concurrency = [1]
    if not concurrency and not flags.rate:
        raise UsageError(f"{given[0]} needs --concurrency C, --rate R or --find-capacity beside it.")
    if flags.arrival is not None and not flags.rate:
        raise UsageError("--arrival says how requests of an open loop come in: it needs --rate R beside it.")
    duration_s = flags.duration or DEFAULT_WINDOW_S
    chosen: dict[str, Any] = {
        "isl": flags.isl,
        "osl": flags.osl,
        "warmup_s": flags.warmup,
        "arrival": flags.arrival,
        "slo": check_slo(flags.slo) if flags.slo else None,
        "api": flags.api,
        "http_version": "2" if flags.http2 else None,
        "fresh_connections": True if flags.fresh_connections else None,
        "ignore_eos": False if flags.natural_stop else None,
    }
    return workloads.custom(
        concurrency=concurrency,
        rate=_numbers("--rate", flags.rate, float) or None,
        duration_s=duration_s,
        evidence_level="smoke" if duration_s >= SMOKE_WINDOW_S else "demo",
        **{name: value for name, value in chosen.items() if value is not None},
    )


def check_slo(text: str) -> dict[str, float | None]:
    """An objective from its name or clauses. Raises ``UsageError`` naming ``--slo``."""
    from loadgen.capacity import parse_slo
    from loadgen.plan import PlanError

    try:
        return parse_slo(text)
    except PlanError as error:
        raise UsageError(f"--slo: {str(error).removeprefix('slo: ')}.") from None


def load_document(flags: Flags, workload: Workload) -> dict[str, Any]:
    """The request's load options (``bench.request.LoadOptions``), checked."""
    search: dict[str, Any] | None = None
    if flags.find_capacity:
        objective = check_slo(flags.slo) if flags.slo else workload.slo
        if objective is None:
            raise UsageError(
                f"--find-capacity: workload {workload.id} has no objective of its own.",
                hint="Give --slo interactive, chat, server, or clauses such as --slo ttft=1000,tpot=50.",
            )
        if flags.workers > 1:
            raise UsageError("--workers: a capacity search decides after every step, in one process.")
        if flags.shards > 1:
            raise UsageError("--shards: a capacity search decides after every step, in one generator.")
        search = dict(objective)
    if flags.dataset is not None and not Path(flags.dataset).is_file():
        raise UsageError(f"--dataset: there is no file {flags.dataset}.")
    if flags.proxy_env is not None and not os.environ.get(flags.proxy_env):
        raise UsageError("--proxy-env: no environment variable of that name is set.")
    return {
        "workers": flags.workers,
        "shards": flags.shards,
        "dataset": str(Path(flags.dataset).resolve()) if flags.dataset else None,
        "search_slo": search,
        "canary": flags.canary,
        "proxy_env": flags.proxy_env,
    }


def check_context(flags: Flags, workload: Workload, context: int | None) -> None:
    """Refuse requests that the served *context* (tokens; ``None`` when it is not known) cannot hold."""
    if context is None or workload.isl + workload.osl <= context:
        return
    own = flags.concurrency or flags.rate
    lengths = "--isl {} and --osl {}" if own else f"--workload {workload.id}: isl {{}} and osl {{}}"
    raise UsageError(
        f"{lengths.format(workload.isl, workload.osl)} make {workload.isl + workload.osl} tokens a request, more than "
        f"the served context of {context} (--max-model-len).",
        hint="Shorter --isl and --osl, or a larger --max-model-len.",
    )


def planned_seconds(workload: Workload, *, search: bool = False) -> float:
    """Warm-up, windows and longest tails of the whole ladder (of a capacity *search*, its usual steps), in seconds."""
    steps = SEARCH_STEPS if search else len(workload.ladder)
    return steps * (workload.warmup_s + workload.window_s + workload.tail_s)


def check_deadline(flags: Flags, workload: Workload, allowance_s: float) -> float:
    """Seconds until the run must be over: as given, or the allowance + 1.5 x planned load, at most two hours (a
    capacity search half an hour of load: it tells how far it came).
    """
    planned = planned_seconds(workload, search=flags.find_capacity)
    if flags.deadline is not None:
        if flags.deadline < planned and not flags.find_capacity:  # a search keeps the points it had time for
            raise UsageError(
                f"--deadline: {flags.deadline:g} s is less than the {planned:.0f} s of load planned."
            )
        return flags.deadline
    if planned > MAX_LOAD_S and not flags.find_capacity:
        raise UsageError(
            f"This is {planned / 60:.0f} minutes of load, more than the 30 an on-demand run has by default.",
            hint=f"Give --deadline SECONDS (such as {max(7200.0, planned + allowance_s):.0f}), fewer steps or a "
            "shorter --duration.",
        )
    return min(7200.0, allowance_s + min(1.5 * planned, MAX_LOAD_S if flags.find_capacity else 7200.0))
