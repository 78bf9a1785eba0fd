"""The emulated cluster as a program that listens.

Belongs here: binding, the kubeconfig, ending. Does not belong here: the guard around the process (``__main__``).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.launch.kube.api import Api
from tests.launch.kube.cluster import BENCH_NAMESPACE, Cluster
from tests.launch.kube.control import Control
from tests.launch.kube.ending import end_below
from tests.launch.kube.moments import Pace
from tests.launch.kube.node_specs import DEFAULT_NODES, NodeSpec

HOST = "127.0.0.1"
STOP_S = 2
CONTEXT = "emulated"


@dataclass(frozen=True, slots=True)
class Options:
    """Of one server; ``scale`` multiplies Kubernetes' own pauses."""

    root: Path
    images: Mapping[str, Any]
    token: str
    faults: Any = ()
    nodes: tuple[NodeSpec, ...] = DEFAULT_NODES
    port: int = 0
    scale: float = 1.0


def kubeconfig(url: str, token: str) -> dict[str, Any]:
    """One context, with the benchmarks' namespace."""
    context = {"cluster": CONTEXT, "user": CONTEXT, "namespace": BENCH_NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": url}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": context}],
        "current-context": CONTEXT,
    }


async def serve(options: Options) -> None:
    """Until SIGTERM; prints one JSON line when it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = web.Application(client_max_size=8 << 20)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
    routes: dict[str, Any] = {}

    async def dispatch(request: web.Request) -> web.StreamResponse:
        return await routes["control" if request.path.startswith("/_") else "api"](request)  # type: ignore[no-any-return]

    app.router.add_route("*", "/{path:.*}", dispatch)
    await runner.setup()
    site = web.TCPSite(runner, HOST, options.port)
    await site.start()
    port = runner.addresses[0][1]
    cluster = Cluster(
        options.root, options.images, nodes=options.nodes, faults=options.faults, pace=Pace(options.scale),
        api=(HOST, port),
    )  # fmt: skip
    api = Api(cluster, options.token)
    routes |= {"api": api.handle, "control": Control(api).handle}
    url = f"http://{HOST}:{port}"
    config = options.root / "kubeconfig"
    config.write_text(json.dumps(kubeconfig(url, options.token)), encoding="utf-8")
    config.chmod(0o600)
    about = {"url": url, "token": options.token, "kubeconfig": str(config), "pid": os.getpid()}
    print(json.dumps(about), flush=True)
    driver = asyncio.create_task(cluster.run())
    await stop.wait()
    signal.alarm(STOP_S)  # whatever hangs below, this process ends
    driver.cancel()
    await cluster.close()
    end_below()
    await runner.cleanup()
