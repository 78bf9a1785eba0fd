"""``python -m tests.launch.kube``: an emulated cluster until SIGTERM or the end of standard input.

Belongs here: options, and the guard: a process that outlives the server by a moment and ends whatever is left.
Does not belong here: the server (``server``).

Guard and server both inherit the orphans below them. If the server dies, even by SIGKILL, the guard ends the rest; if
the guard dies, the kernel tells the server, which does the same.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import signal
import sys
import time
from pathlib import Path

from accelbench_assets.launch.supervise import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl
from tests.launch.kube.ending import end_below

GRACE_S = 1.5  # for the server to end its pods itself


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.launch.kube", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--root", type=Path, required=True, help="folder for logs, volumes and the kubeconfig"
    )
    parser.add_argument(
        "--images", type=Path, required=True, help="JSON: image prefix to the argv that stands for it"
    )
    parser.add_argument("--faults", type=Path, help="JSON: fault plan")
    parser.add_argument(
        "--nodes", type=Path, help="JSON: list of nodes; default two GPU nodes and one without"
    )
    parser.add_argument("--token", default=None, help="bearer token; default: a random one")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of Kubernetes' own pauses")
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace) -> None:
    import asyncio

    from tests.launch.kube.node_specs import DEFAULT_NODES, NodeSpec
    from tests.launch.kube.server import Options, serve

    def read(path: Path | None) -> object:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    rows = read(options.nodes)
    nodes = DEFAULT_NODES if not isinstance(rows, list) else tuple(NodeSpec.read(row) for row in rows)
    images = read(options.images)
    assert isinstance(images, dict)
    options.root.mkdir(parents=True, exist_ok=True)
    token = options.token or secrets.token_hex(16)
    asyncio.run(
        serve(
            Options(
                options.root.resolve(),
                images,
                token,
                read(options.faults) or (),
                nodes,
                options.port,
                options.scale,
            )
        )
    )


def _reap(server: int) -> bool:
    """Collect the dead; whether *server* was among them."""
    gone = False
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return gone
        gone = gone or pid == server


def _guard(server: int) -> None:
    """Until the server is gone, and nothing is left below this process."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    parent, limit = os.getppid(), None
    listening = True
    while not _reap(server):
        if limit is None and (asked or not listening or os.getppid() != parent):
            os.kill(server, signal.SIGTERM)
            limit = time.monotonic() + GRACE_S
        if limit is not None and time.monotonic() > limit:
            break
        ready, _, _ = select.select([0] if listening else [], [], [], 0.05)
        listening = listening and not (ready and not os.read(0, 4096))
    end_below(reap=lambda: _reap(server))


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    server = os.fork()
    if server == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != guard:
            os._exit(1)
        os.setsid()  # a signal to the caller's group reaches the guard only
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, 0)
        _serve(options)
        return 0
    _guard(server)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
