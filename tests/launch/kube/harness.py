"""An emulated cluster for the length of a ``with``.

Belongs here: starting and ending the program, its control endpoints, a kubeconfig. Does not belong here: the
Kubernetes client (tests bring the official one).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from tests.launch.kube.environment import PROJECT

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
TEST_SCALE = 0.05


class KubeLocal:
    """``with KubeLocal(folder, images={...}) as cluster:``; *images* maps a prefix to an argv.

    *nodes* and *faults* are what the program's JSON files hold; *scale* multiplies Kubernetes' own pauses. The
    namespace ``accelbench-bench`` and its service accounts are there from the start.
    """

    namespace = "accelbench-bench"

    def __init__(
        self, root: Path, *, images: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]] | None = None,
        faults: Any = None, scale: float = TEST_SCALE,
    ) -> None:  # fmt: skip
        self.root, self.scale = root, scale
        self.url = self.token = ""
        self.kubeconfig = root / "kubeconfig"
        self._files = {"images": images, "nodes": nodes, "faults": faults}
        self._process: subprocess.Popen[str] | None = None
        self.server_pid = 0

    @property
    def pid(self) -> int:
        """Of the guard, the program's outer process."""
        assert self._process is not None
        return self._process.pid

    def env(self) -> dict[str, str]:
        """What a client's process needs."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        argv = [
            sys.executable,
            "-P",
            "-m",
            "tests.launch.kube",
            "--root",
            str(self.root),
            "--scale",
            str(self.scale),
        ]
        for name, content in self._files.items():
            if content is not None:
                path = self.root / f"{name}.json"
                path.write_text(json.dumps(content), encoding="utf-8")
                argv += [f"--{name}", str(path)]
        with (self.root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(PROJECT), "HOME": str(self.root)},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(START_TIMEOUT_S)
            tail = (self.root / "server.log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the emulated cluster ended with {code}: {tail}")
        about = json.loads(line)
        self.url, self.token, self.server_pid = about["url"], about["token"], about["pid"]
        self.kubeconfig = Path(about["kubeconfig"])
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """One control call; raises ``RuntimeError`` with the server's text."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode(errors='replace')}") from error

    def objects(self, label_selector: str = "", *kinds: str) -> list[dict[str, Any]]:
        """Objects of all kinds (or of *kinds*) in all namespaces."""
        found = self.control("GET", f"/_objects?labelSelector={quote(label_selector)}")
        return [one for one in found if not kinds or one["kind"] in kinds]

    def requests(self) -> list[dict[str, Any]]:
        """Every API call so far: n, verb, resource, namespace, name, status, user_agent, at, ms."""
        return list(self.control("GET", "/_requests"))

    def forget_requests(self) -> None:
        self.control("DELETE", "/_requests")

    def set_faults(self, plan: Any) -> None:
        """Replace the fault plan; counters and draws start anew."""
        self.control("PUT", "/_faults", plan)

    def faults(self) -> list[dict[str, Any]]:
        """Each fault and how often it struck."""
        return list(self.control("GET", "/_faults"))

    def make_node_unready(self, name: str, *, after_s: float | None = None) -> None:
        """The node falls silent now; Ready becomes Unknown *after_s* later (default: 50 s times the scale)."""
        self.control("POST", "/_nodes", {"op": "unready", "name": name, "after_s": after_s})

    def make_node_ready(self, name: str) -> None:
        self.control("POST", "/_nodes", {"op": "ready", "name": name})

    def drain_node(self, name: str, reason: str = "Underutilized") -> None:
        """As Karpenter does for consolidation or a spot reclaim: taint, evict, then remove the node."""
        self.control("POST", "/_nodes", {"op": "drain", "name": name, "reason": reason})

    def delete_node(self, name: str) -> None:
        """Machine and Node object are gone; its pods' objects follow after 40 s times the scale."""
        self.control("POST", "/_nodes", {"op": "delete", "name": name})

    def add_node(self, node: Mapping[str, Any]) -> None:
        self.control("POST", "/_nodes", {"op": "add", "node": dict(node)})

    def expire_watches(self) -> None:
        """Versions before now are too old to watch from (410)."""
        self.control("DELETE", "/_history")

    def evict(self, pod: str, namespace: str | None = None) -> None:
        """Through the eviction API, as a drain does."""
        place = namespace or self.namespace
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": place}}
        self.control("POST", f"/api/v1/namespaces/{place}/pods/{pod}/eviction", body)

    def wait_gone(self, label_selector: str, timeout_s: float = 60.0) -> None:
        """Raises ``TimeoutError`` naming what is left."""
        limit = time.monotonic() + timeout_s
        while left := self.objects(label_selector):
            if time.monotonic() > limit:
                names = ", ".join(f"{one['kind']}/{one['metadata']['name']}" for one in left)
                raise TimeoutError(f"still there after {timeout_s:g} s: {names}")
            time.sleep(0.03)
