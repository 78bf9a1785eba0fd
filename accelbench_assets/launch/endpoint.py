"""The launcher for a server somebody else runs: nothing is started, everything is asked.

Belongs here: reaching it, its models, one real completion, and the facts it gives. Does not belong here:
telling engines apart (``identify``), cells of such servers (``cli``), load (``generator``).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from accelbench_assets.errors import LaunchError, UsageError
from accelbench_assets.launch.base import (
    AttemptHold,
    Deadline,
    Endpoint,
    EventSink,
    LoadManifest,
    NoHold,
    Replica,
    ServerSpec,
    utc_now,
)
from accelbench_assets.launch.facts import base_facts, clean_args, iso
from accelbench_assets.launch.generator import run_generator
from accelbench_assets.launch.host import endpoint_instance, server_root
from accelbench_assets.launch.identify import Identity, identify, origin_of
from accelbench_assets.launch.probe import Probe, Reply, Server, Unreachable, try_completion
from accelbench_assets.scrub import scrub
from loadgen.plan import Plan

DISCOVERY_TIMEOUT_S = 10.0
COMPLETION_TIMEOUT_S = 120.0
SHOWN_MODELS = 12
UNNAMED_ENGINE = "openai"
UNSTATED = ("unstated", "unknown")


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a server says of itself before any load; ``engine`` and ``engine_version`` are ``None`` if it does
    not.
    """

    base_url: str
    models: tuple[str, ...]
    engine: str | None
    engine_version: str | None
    origin: str
    engine_args: Mapping[str, Any]


def discover(
    url: str,
    headers: Mapping[str, str] | None = None,
    api_key_env: str | None = None,
    timeout_s: float = DISCOVERY_TIMEOUT_S,
) -> Discovery:
    """Ask the server at *url* (with or without ``/v1``) what it is and serves.

    Raises ``UsageError`` for a URL that cannot be used, ``LaunchError`` (``unreachable``, ``auth``).
    """
    server = connect_to(url, headers or {}, api_key_env)
    try:
        reply = server.request("GET", "/v1/models", timeout_s=timeout_s)
    except Unreachable as error:
        raise LaunchError(
            f"Nobody answers at {server.base_url}: {error}.",
            code="unreachable",
            hint="Check the URL, and that the server is running and can be reached from here.",
        ) from None
    _refuse_status(server, reply, api_key_env)
    listed = reply.json() if reply.status == 200 else None
    data = listed.get("data") if isinstance(listed, dict) else None
    rows = [row for row in data if isinstance(row, dict) and row.get("id")] if isinstance(data, list) else []
    found: Identity = identify(server, reply, rows)
    models = tuple(str(row["id"]) for row in rows)
    return Discovery(server.base_url, models, found.engine, found.version, origin_of(reply), found.arguments)


def connect_to(url: str, headers: Mapping[str, str], api_key_env: str | None) -> Server:
    """The server at *url* with its headers; the key is read from the environment here, nowhere else."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--endpoint: {scrub(url)!r} is not an http:// or https:// URL.")
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "--endpoint: the URL holds credentials or a query, which would be kept with the results.",
            hint="Put the API key into an environment variable and name that with --api-key-env.",
        )
    sent = dict(headers)
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise LaunchError(
                f"Environment variable {api_key_env}, which should hold the API key, is not set.",
                code="auth",
                hint=f"Export {api_key_env} first.",
            )
        sent["Authorization"] = f"Bearer {key}"
    return Server(server_root(url), sent)


def _refuse_status(server: Server, reply: Reply, api_key_env: str | None) -> None:
    if reply.status in (401, 403):
        named = f"the API key in {api_key_env}" if api_key_env else "a request without an API key"
        raise LaunchError(
            f"{server.base_url} refuses {named} (status {reply.status}).",
            code="auth",
            hint="Name the environment variable that holds a valid key with --api-key-env.",
        )
    if reply.status >= 500:
        raise LaunchError(f"{server.base_url} answers with status {reply.status}.", code="unreachable")


def choose_model(spec: ServerSpec, models: tuple[str, ...]) -> str:
    """The name to ask for: as given, else the model's id or slug as listed.

    Raises ``LaunchError`` (``model_not_found``) listing the models there are.
    """
    wanted = (spec.served_model_name,) if spec.served_model_name else (spec.model_id, spec.cell.model)
    if not models:  # a server without a list: the completion will tell
        return wanted[0]
    for name in wanted:
        for listed in models:
            if listed == name or (not spec.served_model_name and listed.lower() == name.lower()):
                return listed
    more = f" and {len(models) - SHOWN_MODELS} more" if len(models) > SHOWN_MODELS else ""
    raise LaunchError(
        f"The endpoint does not serve {wanted[0]}; it serves: {', '.join(models[:SHOWN_MODELS])}{more}.",
        code="model_not_found",
        hint="Name one of them with --model.",
    )


class EndpointLauncher:
    """Serves cells of instance ``endpoint-…`` by asking the server they stand for."""

    name = "endpoint"
    paid = False
    remote = False

    def attempt_facts(self) -> dict[str, Any]:
        """Nothing beyond the run's lock."""
        return {}

    def attempt(
        self, run_id: str, cell_id: str, deadline: Deadline, on_renew: Callable[[], None]
    ) -> AbstractContextManager[AttemptHold]:
        """See ``Launcher.attempt``: nothing is held."""
        return NoHold.around()

    @contextmanager
    def serve(self, spec: ServerSpec, deadline: Deadline, on_event: EventSink) -> Iterator[Endpoint]:
        """See ``Launcher.serve``. Codes: ``no_endpoint``, ``wrong_machine``, ``unreachable``, ``auth``,
        ``model_not_found``, ``wrong_version``, ``not_ready``.
        """
        if spec.endpoint_url is None:
            raise LaunchError(
                f"Cell {spec.cell.key_text} is of a server somebody else runs, and its URL was not given.",
                code="no_endpoint",
                hint="Give it with `accelbench run --endpoint URL`.",
            )
        if spec.cell.instance != endpoint_instance(spec.endpoint_url):
            raise LaunchError(
                f"The cell is of {spec.cell.instance}; this URL is {endpoint_instance(spec.endpoint_url)}.",
                code="wrong_machine",
            )
        deadline.check("reaching the endpoint")
        started = time.monotonic()
        server = connect_to(spec.endpoint_url, spec.headers, spec.api_key_env)
        on_event("phase", f"Asking {server.base_url} what it serves", {"url": server.base_url})
        limit = min(DISCOVERY_TIMEOUT_S, deadline.remaining())
        found = discover(spec.endpoint_url, spec.headers, spec.api_key_env, limit)
        _check_engine(spec, found)
        model = choose_model(spec, found.models)
        probe = _complete(server, model, spec, deadline)
        ready_at = iso(utc_now())
        simulated = "simulated" in (found.origin, origin_of(probe.reply))
        facts = base_facts(spec, self.name) | {
            "origin": "simulated" if simulated else "measured",
            "hardware": "declared",
            "engine": "truth" if simulated else found.engine or spec.cell.engine,
            "engine_version": found.engine_version or spec.cell.engine_version,
            "engine_args": clean_args({**dict(spec.cell.deployment.args), **found.engine_args}),
            "max_model_len": found.engine_args.get("max_model_len", spec.cell.deployment.max_model_len),
            "first_probe_at": ready_at,
            "ready_at": ready_at,
            "ready_s": round(time.monotonic() - started, 6),
        }
        on_event("phase", f"{facts['engine']} {facts['engine_version']} answers as {model}", {"model": model})

        def read_metrics() -> dict[str, str]:
            reply = server.get("/metrics")
            return {address: reply.text} if reply is not None and "# TYPE" in reply.text else {}

        address = urlsplit(server.base_url).netloc
        yield Endpoint(
            model=model,
            replicas=(Replica(address, server.base_url),),
            facts=facts,
            read_metrics=read_metrics,
            check_alive=lambda: None,  # not our process: the samples tell when it stops answering
            supports_ignore_eos=probe.supports_ignore_eos,
        )
        facts["torn_down_at"] = iso(utc_now())

    def load(
        self,
        plan: Plan,
        endpoint: Endpoint,
        out: str,
        spec: ServerSpec,
        deadline: Deadline,
        on_event: EventSink,
    ) -> LoadManifest:
        """See ``Launcher.load``; the generator is a child process on this machine."""
        return run_generator(plan, endpoint, out, spec, deadline, on_event)


def _check_engine(spec: ServerSpec, found: Discovery) -> None:
    """A server that says it is something else than the cell names must not be measured under that name."""
    cell = spec.cell
    said = re.sub(r"[^a-z0-9._+-]", "-", (found.engine_version or "").lower())
    wrong_engine = found.engine is not None and cell.engine not in (found.engine, UNNAMED_ENGINE)
    wrong_version = bool(said) and cell.engine_version not in (said, *UNSTATED)
    if wrong_engine or wrong_version:
        raise LaunchError(
            f"The cell names {cell.engine} {cell.engine_version}, and the server says it is "
            f"{found.engine or cell.engine} {said or 'of an unstated version'}.",
            code="wrong_version",
            hint="Run it again without --engine and --engine-version, or with what the server says.",
        )


def _complete(server: Server, model: str, spec: ServerSpec, deadline: Deadline) -> Probe:
    try:
        probe = try_completion(server, model, timeout_s=min(COMPLETION_TIMEOUT_S, deadline.remaining()))
    except Unreachable as error:
        deadline.check("waiting for the endpoint's first completion")
        raise LaunchError(f"{server.base_url} gave no completion: {error}.", code="unreachable") from None
    if not probe.ok:
        _refuse_status(server, probe.reply, spec.api_key_env)
        raise LaunchError(
            f"{server.base_url} gave no completion for {model}: status {probe.reply.status}, "
            f"{server.scrub(probe.reply.text)[:200] or 'no text'}.",
            code="model_not_found" if probe.reply.status == 404 else "not_ready",
        )
    return probe
