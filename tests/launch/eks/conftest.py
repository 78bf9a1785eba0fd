"""One emulated cluster for all tests of the launcher, and benches on it: a launcher, its run, and what was said."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import Deadline, Endpoint, ServerSpec
from accelbench_assets.launch.eks import EksLauncher
from accelbench_assets.launch.kube.naming import run12
from accelbench_assets.settings import Settings
from accelbench_assets.settings_groups import KubeSettings
from loadgen.plan import Plan, Step
from loadgen.workloads import load as load_workload
from partitions.cell import BenchmarkCell, Deployment
from tests.launch.kube import standins
from tests.launch.kube.harness import KubeLocal

MODEL, MODEL_ID, REVISION = "llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", "0e9e39f"
SHORT = {
    "poll_s": 0.1,
    "lease_renew_s": 0.5,
    "lease_stale_s": 120.0,
    "provisioning_s": 120.0,
    "start_s": 120.0,
}


STAND_IN = """
import json, os, pathlib, signal, sys, time
plan = json.loads(pathlib.Path(sys.argv[sys.argv.index("--plan") + 1]).read_text())
out = sys.argv[sys.argv.index("--out") + 1].removeprefix("file://")
shard = int(sys.argv[sys.argv.index("--shard-index") + 1])
def say(**event): print(json.dumps(event), flush=True)
def leave(**document):
    folder = pathlib.Path(out) / f"shard={shard:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shard.json").write_text(json.dumps({"shard": shard, **document}))
def on_term(*_):
    leave(complete=False)
    sys.exit(1)
signal.signal(signal.SIGTERM, on_term)
"""


WAITS = """
say(event="progress", step_index=0, completed=1, failed=0)
time.sleep(600)
"""


MakeBench = Callable[..., "Bench"]


@dataclass
class Bench:
    """One launcher with its own run, and everything that was said."""

    kube: KubeLocal
    launcher: EksLauncher
    spec: ServerSpec
    out: str
    events: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)

    def on_event(self, kind: str, message: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, message, data))

    def said(self, kind: str) -> list[str]:
        return [message for k, message, _ in self.events if k == kind]

    @contextmanager
    def serving(self, seconds: float = 300.0) -> Iterator[Endpoint]:
        deadline = Deadline.after(seconds)
        cell = self.spec.cell
        with (
            self.launcher.attempt(self.spec.run_id, cell.cell_id, deadline, lambda: None),
            self.launcher.serve(self.spec, deadline, self.on_event) as endpoint,
        ):
            yield endpoint

    def failure(self, **more: Any) -> LaunchError:
        with pytest.raises(LaunchError) as caught, self.serving(**more):
            pass
        return caught.value

    def plan(
        self, endpoint: Endpoint, *, shards: int = 1, window_s: float = 1.0, seconds: float = 300.0
    ) -> Plan:
        workload = load_workload("demo.chat@1")
        step = Step(0, "closed", 2, 0.2, window_s, 5.0)
        return Plan(
            self.spec.run_id, endpoint.model, endpoint.replicas, (step,), workload.document, workload.id,
            workload.hash, 1, 20.0, 10.0, seconds, shards=shards, scrape=endpoint.scrape, null_server=False,
        )  # fmt: skip

    def drive(self, endpoint: Endpoint, plan: Plan, seconds: float = 300.0) -> Any:
        return self.launcher.load(plan, endpoint, self.out, self.spec, Deadline.after(seconds), self.on_event)

    def left(self) -> list[str]:
        found = self.kube.objects(f"accelbench.io/run={run12(self.spec.run_id)}")
        return [f"{one['kind']}/{one['metadata']['name']}" for one in found]

    def await_nothing_left(self, seconds: float = 60.0) -> None:
        limit = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < limit:
            time.sleep(0.1)
        assert left == []


@pytest.fixture(scope="package")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeLocal]:
    root = tmp_path_factory.mktemp("kube")
    images = standins.images("truth", ["--ttft-ms", "5", "--gap-ms", "2"])
    images["stand-in/loadgen"] = [sys.executable, str(root / "stand_in.py")]
    with KubeLocal(root, images=images, scale=0.05) as local:
        yield local


@pytest.fixture
def make(kube: KubeLocal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeBench]:
    """A bench of one run; afterwards nothing of it may be left in the cluster."""
    made: list[Bench] = []
    lake = tempfile.TemporaryDirectory(dir="/var/tmp")  # /tmp is a volume of the generators' pods
    for name, value in kube.env().items():
        monkeypatch.setenv(name, value)

    def bench(
        *, replicas: int = 1, instance: str = "g6e.xlarge", loadgen: str | None = None, **changes: Any
    ) -> Bench:
        settings = KubeSettings(**{**SHORT, **changes, **({"loadgen_image": loadgen} if loadgen else {})})
        deployment = Deployment(max_model_len=512, replicas=replicas)
        cell = BenchmarkCell(MODEL, REVISION, instance, "vllm", "0.32.0", deployment, "demo.chat@1")
        work_dir = tmp_path / f"work{len(made)}"
        work_dir.mkdir()
        spec = ServerSpec(str(uuid.uuid4()), cell, MODEL_ID, work_dir, shards=1)
        out = Path(lake.name) / f"incoming{len(made)}"
        launcher = EksLauncher(
            Settings(home=tmp_path, kube=settings), out.as_uri(), start_allowances_s=(2.0, 6.0, 60.0)
        )
        made.append(Bench(kube, launcher, spec, out.as_uri()))
        return made[-1]

    yield bench
    kube.set_faults([])
    for one in made:
        one.await_nothing_left()
    lake.cleanup()


def stand_in(kube: KubeLocal, body: str) -> str:
    """The generator's image as a script with *body*."""
    (Path(kube.root) / "stand_in.py").write_text(STAND_IN + body)
    return "stand-in/loadgen:1"


def when_said(bench: Bench, kind: str, what: Callable[[], object]) -> threading.Thread:
    """Do *what* as soon as something of *kind* was said."""

    def wait() -> None:
        limit = time.monotonic() + 120
        while not bench.said(kind) and time.monotonic() < limit:
            time.sleep(0.02)
        what()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread
