"""``accelbench run``: one benchmark of one cell, from flags to the results table.

Belongs here: the command's flags, and the command line that repeats the run.
Does not belong here: their checks (``target``), the dry run (``dryrun``), the attempt (``launching``).
"""

from __future__ import annotations

import secrets
import shlex
import sys
from typing import Annotated

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.state import STATE, home
from accelbench_assets.cli.target import DEFAULT_MODEL, Flags, Target, resolve
from accelbench_assets.cli.target_load import DEFAULT_WORKLOAD
from accelbench_assets.errors import AccelBenchError, UsageError
from accelbench_assets.scrub import scrub


def reproduce_command(target: Target, *, drawn_seed: int | None = None, one_trial: bool = False) -> str:
    """The command line that repeats the run, quoted for a shell and without secrets: as typed, with the seed that was
    drawn for it and the settings that are part of its cell but came from the environment or ``accelbench.toml``.
    *one_trial* of several is repeated alone, with its own seed.
    """
    words = sys.argv[1:]
    if one_trial:
        words, drawn_seed = without_options(words, ("--trials", "--seed")), target.request["seed"]
    threads = str(STATE.settings.llamacpp_threads)
    settings = (
        f"ACCELBENCH_LLAMACPP_THREADS={threads} "
        if ("threads", threads) in target.cell.deployment.args
        else ""
    )
    seed = [] if drawn_seed is None else ["--seed", str(drawn_seed)]
    return scrub(settings + shlex.join(["accelbench", *words, *seed]))


def without_options(words: list[str], names: tuple[str, ...]) -> list[str]:
    """*words* of a command line without these options and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word in names:
            skip = not skip
        elif not word.startswith(tuple(f"{name}=" for name in names)):
            kept.append(word)
    return kept


def run(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help=f"Model slug (see `accelbench cells list`), or the name an endpoint serves; "
            f"default: {DEFAULT_MODEL}.",
        ),
    ] = None,
    model_revision: Annotated[
        str | None,
        typer.Option(
            "--model-revision",
            metavar="COMMIT",
            help="EC2 only: commit of the model's repository; default: the catalog's.",
        ),
    ] = None,
    instance: Annotated[
        str,
        typer.Option(
            "--instance", help="Where the model is served: `local`, or an EC2 type such as g6e.xlarge."
        ),
    ] = "local",
    engine: Annotated[
        str | None, typer.Option("--engine", help="llamacpp (default here) or vllm (EC2 has only this one).")
    ] = None,
    engine_version: Annotated[
        str | None,
        typer.Option(
            "--engine-version",
            help="EC2: version to start (default: the suites'). Elsewhere: refuse to run another; names an endpoint's.",
        ),
    ] = None,
    tp: Annotated[int, typer.Option("--tp", min=1, help="Tensor parallel degree.")] = 1,
    quantization: Annotated[
        str | None,
        typer.Option("--quantization", help="Quantization of the weights, such as none, fp8, q4_1."),
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=1, help="Context length to serve, in tokens.")
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Servers of the same model.")] = 1,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload", metavar="ID|FILE", help=f"A workload by id or file; default: {DEFAULT_WORKLOAD}."
        ),
    ] = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option("--concurrency", metavar="C", help="Closed loop: requests in flight. Repeat, or 1,2,4."),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", metavar="R", help="Open loop: Poisson arrivals a second. Repeat, or 0.5,1."),
    ] = None,
    isl: Annotated[int | None, typer.Option("--isl", min=1, help="Input tokens a request (256).")] = None,
    osl: Annotated[int | None, typer.Option("--osl", min=1, help="Output tokens a request (128).")] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", min=1, help="Measured window of each step, seconds (60).")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option("--warmup", min=0, help="Warm-up before each window, seconds (5).")
    ] = None,
    arrival: Annotated[
        str | None,
        typer.Option(
            "--arrival",
            metavar="LAW",
            help="With --rate: poisson (default), constant, gamma:K (gap CV 1/sqrt K).",
        ),
    ] = None,
    find_capacity: Annotated[
        bool,
        typer.Option(
            "--find-capacity",
            help="Find the highest request rate within the objective: a closed ladder to the knee, bisection, then "
            "open-loop confirmation.",
        ),
    ] = False,
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo",
            metavar="NAME|CLAUSES",
            help="Objective: interactive, chat, server, batch, or ttft=1000,tpot=50,e2e=9000@0.95 in ms.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", metavar="FILE", help="Your requests (JSONL) or trace, where a workload asks for it."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=64, help="Load generator processes that share one schedule."),
    ] = 1,
    shards: Annotated[
        int,
        typer.Option(
            "--shards", min=1, max=64, help="EC2 only: load generators, each a pod, that share one schedule."
        ),
    ] = 1,
    canary: Annotated[
        bool,
        typer.Option("--canary", help="After the load, check 64 short answers against an earlier run's."),
    ] = False,
    api: Annotated[
        str | None, typer.Option("--api", help="chat (default) or completions; for a load made of flags.")
    ] = None,
    http2: Annotated[bool, typer.Option("--http2", help="HTTP/2, which is a load of its own.")] = False,
    fresh_connections: Annotated[
        bool, typer.Option("--fresh-connections", help="A new connection for every request.")
    ] = False,
    natural_stop: Annotated[
        bool, typer.Option("--natural-stop", help="Let the model end its answers; --osl is then their cap.")
    ] = False,
    proxy_env: Annotated[
        str | None,
        typer.Option(
            "--proxy-env",
            metavar="NAME",
            help="Environment variable with an HTTP proxy's URL, for the load; the server must also answer directly.",
        ),
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher",
            help="eks: launching EC2 instances, which costs money, is allowed. Default: setting launcher.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="Measure a server that somebody else runs."),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", metavar="NAME", help="Environment variable that holds the endpoint's API key."
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="K=V", help="Extra request header, no secrets. Repeat."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1024, max=65535, help="Port of the local engine; default any free one."),
    ] = None,
    usd_per_hour: Annotated[
        float | None, typer.Option("--usd-per-hour", help="Declared price of this machine or endpoint.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**63 - 1,
            help="Root seed of lengths, content and arrivals; default: drawn anew and recorded, because the same "
            "prompts again would measure a warm server's prefix cache.",
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", min=1, max=86400, help="The run must be over after this many seconds."),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            "--trials",
            min=1,
            max=100,
            help="So many runs, one after the other, each with a server started anew.",
        ),
    ] = 1,
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell", metavar="KEY", help="Run a registered cell (not an endpoint's) again, by its key or id."
        ),
    ] = None,
    allow_misfit: Annotated[
        bool,
        typer.Option(
            "--allow-misfit",
            help="EC2 only: start even what cannot fit by the rule, to record that it does not.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, print the cell and the plan (EC2: the manifests and the cost), start nothing.",
        ),
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            " /--no-publish", help="Measure only: leave marts, catalog and report page as they are."
        ),
    ] = True,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Benchmark one model on this machine, on an EC2 instance by way of EKS, or a server behind a URL.

    The evidence level follows from the workload; --concurrency and --rate make a workload of their own. JSON
    is one object: run (the record), steps (each with its percentiles), slo, cost, paths. With --dry-run:
    cell_key, cell, workload, ladder, planned_s, deadline_s, request; for an EC2 instance also manifests, estimate.
    """
    format_ = chosen(fmt, as_json)
    drawn = None if seed is not None else secrets.randbits(32)
    flags = Flags(
        model=model,
        model_revision=model_revision,
        instance=instance,
        engine=engine,
        engine_version=engine_version,
        tp=tp,
        quantization=quantization,
        max_model_len=max_model_len,
        replicas=replicas,
        workload=workload,
        concurrency=tuple(concurrency or ()),
        rate=tuple(rate or ()),
        isl=isl,
        osl=osl,
        duration=duration,
        warmup=warmup,
        arrival=arrival,
        find_capacity=find_capacity,
        slo=slo,
        dataset=dataset,
        workers=workers,
        shards=shards,
        allow_misfit=allow_misfit,
        canary=canary,
        api=api,
        http2=http2,
        fresh_connections=fresh_connections,
        natural_stop=natural_stop,
        proxy_env=proxy_env,
        launcher=launcher,
        endpoint=endpoint,
        api_key_env=api_key_env,
        headers=tuple(header or ()),
        port=port,
        usd_per_hour=checked_price(usd_per_hour),
        seed=next(s for s in (seed, drawn) if s is not None),
        deadline=deadline,
        cell=cell,
    )
    target = resolve(flags, STATE.settings.home if dry_run else home(), prepare=not dry_run)
    if model is None and cell is None and endpoint is None:
        load = "" if concurrency or rate else f", workload {target.workload.id}"
        target.notes.insert(
            0, f"No --model, --cell or --endpoint was given: this is model {target.cell.model}{load}."
        )
    if dry_run:
        from accelbench_assets.cli.dryrun import show_plan

        show_plan(target, format_)
        return
    if trials > 1 and format_ is not Format.table:
        raise UsageError(
            "--trials: JSON and CSV are of one run; read each with `accelbench show RUN --json`."
        )
    _launch(target, trials, drawn, publish=publish, fmt=format_)


def _launch(target: Target, trials: int, drawn_seed: int | None, *, publish: bool, fmt: Format) -> None:
    """One run, or several of them; a trial that fails or is void does not keep the others from being made."""
    from accelbench_assets.cli.launching import launch

    if trials == 1:
        launch(target, command=reproduce_command(target, drawn_seed=drawn_seed), publish=publish, fmt=fmt)
        return
    if target.request["endpoint_url"]:
        STATE.note("the server is not started anew between these trials: it is somebody else's.")
    seed = target.request["seed"]
    failure: AccelBenchError | None = None
    for index in range(trials):
        # Other prompts and arrivals in every trial: the same ones would measure the same luck again.
        target.request |= {"seed": (seed + index) % 2**63, "trial_index": index}
        STATE.note(f"trial {index + 1} of {trials}")
        try:
            launch(target, command=reproduce_command(target, one_trial=True), publish=publish, fmt=fmt)
        except AccelBenchError as error:
            STATE.warn(f"trial {index + 1}: {error.message}")
            failure = error
    if failure is not None:
        raise failure


def checked_price(usd_per_hour: float | None) -> float | None:
    """The declared price, within the bounds of the setting of the same name."""
    if usd_per_hour is not None and not 0 < usd_per_hour < 100_000:
        raise UsageError(
            f"--usd-per-hour: {usd_per_hour:g} is not a price between 0 and 100,000 USD an hour."
        )
    return usd_per_hour
