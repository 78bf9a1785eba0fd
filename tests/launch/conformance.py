"""Does this cluster behave as the launcher relies on? The same checks against any kubeconfig.

Usage: ``python -m tests.launch.conformance --namespace NS [--context C] [--image IMAGE]`` (``make conformance``). It
needs the rights of the orchestrator in that namespace and an image with ``python``; it asks for no accelerator, costs
nothing but a few small pods, and removes everything it made.

Belongs here: one function a fact, each on objects of its own. Does not belong here: faults that only an emulation can
inject (``tests.faults``), benchmarks.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from accelbench_assets.bench.record import new_run_id
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.lease import LeaseKeeper
from accelbench_assets.launch.kube.naming import (
    CANCEL,
    annotations,
    base_name,
    labels,
    load_name,
    owner_reference,
    selector,
)
from accelbench_assets.launch.kube.reap import remove_run
from accelbench_assets.settings_groups import KubeSettings

CELL = "0123456789ab"
IMAGE = "python:3.12-slim"
SERVER = (
    "import http.server as h, sys;"
    "print('serving', flush=True);"
    "h.ThreadingHTTPServer((sys.argv[1], 8000), h.SimpleHTTPRequestHandler).serve_forever()"
)
WAIT_S = 120.0


class Run:
    """Objects of one made-up run; leaving the context removes them."""

    def __init__(self, cluster: Cluster, kube: KubeSettings, image: str) -> None:
        self.cluster, self.kube, self.image = cluster, kube, image
        self.run_id = new_run_id()
        self.expires_at = datetime.now(UTC) + timedelta(minutes=10)

    def meta(self, name: str, component: str) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": self.cluster.namespace,
            "labels": labels(self.run_id, CELL, component),
            "annotations": annotations(self.run_id, self.expires_at, self.kube.lease_stale_s),
        }

    def anchor(self) -> dict[str, Any]:
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self.meta(base_name(self.run_id), "anchor"),
        }
        return self.cluster.create(manifest)

    def owned(self, manifest: dict[str, Any], anchor: dict[str, Any]) -> dict[str, Any]:
        manifest["metadata"]["ownerReferences"] = [owner_reference(anchor)]
        return self.cluster.create(manifest)

    def pod_template(self, component: str, code: str, *args: str, **spec: Any) -> dict[str, Any]:
        container = {
            "name": "main",
            "image": spec.pop("image", self.image),
            "command": ["python", "-c", code, *args],
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        }
        return {
            "metadata": {"labels": labels(self.run_id, CELL, component)},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 5, **spec},
        }

    def job(self, anchor: dict[str, Any], code: str, completions: int = 1, **spec: Any) -> dict[str, Any]:
        template = self.pod_template("load", code, restartPolicy="Never", **spec)
        index = {
            "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
        }
        template["spec"]["containers"][0]["env"].append({"name": "JOB_COMPLETION_INDEX", "valueFrom": index})
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self.meta(load_name(self.run_id), "load"),
            "spec": {
                "completionMode": "Indexed",
                "completions": completions,
                "parallelism": completions,
                "backoffLimit": 0,
                "template": template,
            },
        }
        return self.owned(body, anchor)

    def pods(self, component: str) -> list[dict[str, Any]]:
        return self.cluster.list("Pod", labels=selector(self.run_id, component))

    def pod_when(self, component: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return wait_for(lambda: next((p for p in self.pods(component) if wanted(p)), None), "a pod")


def wait_for(look: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """The first true answer of *look*; fails after *seconds*."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


@contextlib.contextmanager
def made_up_run(cluster: Cluster, kube: KubeSettings, image: str) -> Iterator[Run]:
    run = Run(cluster, kube, image)
    try:
        yield run
    finally:
        remove_run(cluster, run.run_id, wait_s=30)


def check_version_and_time(run: Run) -> None:
    """It says its version, and its clock is one."""
    assert run.cluster.version().startswith("v1.")
    assert abs((run.cluster.server_time() - datetime.now(UTC)).total_seconds()) < 3600
    assert run.cluster.namespace_uid()


def check_a_repeated_create_is_ours(run: Run) -> None:
    """Creating again after a lost answer gives the first object; another run's object is a conflict."""
    first = run.anchor()
    assert run.anchor()["metadata"]["uid"] == first["metadata"]["uid"]
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": run.meta(base_name(run.run_id), "anchor")}
    other["metadata"]["labels"] = labels(new_run_id(), CELL, "anchor")
    assert _refusal(run, other) == "conflict"


def check_unknown_fields_are_refused(run: Run) -> None:
    """A misspelt field is an error, not a silence."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": run.meta(base_name(run.run_id), "anchor"),
    }
    assert _refusal(run, {**manifest, "dataa": {"a": "b"}}) == "bad_config"


def _refusal(run: Run, manifest: dict[str, Any]) -> str:
    try:
        run.cluster.create(manifest)
    except KubeError as error:
        return error.code
    return "accepted"


def check_what_is_absent_is_none(run: Run) -> None:
    """Reading, changing and deleting what is not there is no error."""
    assert run.cluster.get("ConfigMap", "accelbench-absent") is None
    assert run.cluster.patch("ConfigMap", "accelbench-absent", {"data": {"a": "b"}}) is None
    assert run.cluster.delete("ConfigMap", "accelbench-absent") is False


def check_the_anchor_takes_all_with_it(run: Run) -> None:
    """Deleting the anchor removes Job and pods in the background."""
    anchor = run.anchor()
    run.job(anchor, "import time; time.sleep(600)")
    run.pod_when("load", lambda p: p["status"].get("phase") == "Running")
    assert run.cluster.delete("ConfigMap", base_name(run.run_id))
    wait_for(lambda: not run.cluster.list("Job", labels=selector(run.run_id)), "the Job goes")
    wait_for(lambda: not run.pods("load"), "its pods go")


def check_a_deleted_job_takes_its_pods(run: Run) -> None:
    """Our delete never orphans pods."""
    run.job(run.anchor(), "import time; time.sleep(600)")
    run.pod_when("load", lambda p: p["status"].get("phase") == "Running")
    assert run.cluster.delete("Job", load_name(run.run_id))
    wait_for(lambda: not run.pods("load"), "its pods go")


def check_indexed_jobs_number_their_pods(run: Run) -> None:
    """Every pod knows its index; the Job ends as Complete; logs can be read afterwards."""
    run.job(run.anchor(), "import os; print('index', os.environ['JOB_COMPLETION_INDEX'])", completions=2)

    def done() -> bool:
        job = run.cluster.get("Job", load_name(run.run_id)) or {}
        conditions = (job.get("status") or {}).get("conditions") or ()
        return any(c["type"] == "Complete" and c["status"] == "True" for c in conditions)

    wait_for(done, "the Job completes")
    said = {run.cluster.log(p["metadata"]["name"], "main").strip() for p in run.pods("load")}
    assert said == {"index 0", "index 1"}, said


def check_logs_are_followed_to_the_end(run: Run) -> None:
    """Following begins before the container does and ends with it; every line comes once."""
    run.job(
        run.anchor(), "import time\nfor i in range(5):\n    print('line', i, flush=True)\n    time.sleep(0.3)"
    )
    pod = run.pod_when("load", lambda p: True)["metadata"]["name"]
    lines = [line for line in run.cluster.follow_log(pod, "main") if line.startswith("line")]
    assert lines == [f"line {i}" for i in range(5)], lines


def check_a_server_answers_through_the_api_server(run: Run) -> None:
    """Deployment, Service and a request by proxy."""
    anchor = run.anchor()
    name = base_name(run.run_id)
    wanted = labels(run.run_id, CELL, "server")
    template = run.pod_template("server", SERVER, "$(POD_IP)")
    template["spec"]["containers"][0]["readinessProbe"] = {
        "httpGet": {"path": "/", "port": 8000},
        "periodSeconds": 1,
    }
    run.owned(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": run.meta(name, "server"),
            "spec": {"selector": wanted, "ports": [{"name": "http", "port": 8000}]},
        },
        anchor,
    )
    run.owned(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": run.meta(name, "server"),
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": wanted},
                "template": template,
            },
        },
        anchor,
    )

    def ready(pod: dict[str, Any]) -> bool:
        conditions = pod["status"].get("conditions") or ()
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    pod = run.pod_when("server", ready)
    reply = run.cluster.proxy(pod["metadata"]["name"], 8000, "GET", "/", None, 10.0)
    assert reply.status == 200
    assert (run.cluster.get("Service", name) or {})["spec"]["clusterIP"]


def check_the_lease_is_renewed_and_carries_a_cancel(run: Run) -> None:
    """The sign of life moves on; a request to cancel is heard; a Lease that is gone is noticed."""
    anchor = run.anchor()
    with LeaseKeeper(run.cluster, run.run_id, CELL, anchor, run.kube, run.expires_at) as keeper:
        keeper.check()
        name = base_name(run.run_id)
        first = (run.cluster.get("Lease", name) or {})["spec"]["renewTime"]
        wait_for(lambda: (run.cluster.get("Lease", name) or {})["spec"]["renewTime"] != first, "a renewal")
        run.cluster.patch("Lease", name, {"metadata": {"annotations": {CANCEL: "conformance"}}})
        assert _raised(keeper) == "cancelled"


def check_a_lost_lease_is_noticed(run: Run) -> None:
    """Somebody removed the run: its orchestrator hears of it."""
    with LeaseKeeper(run.cluster, run.run_id, CELL, run.anchor(), run.kube, run.expires_at) as keeper:
        run.cluster.delete("Lease", base_name(run.run_id))
        assert _raised(keeper) == "lease_lost"


def _raised(keeper: LeaseKeeper) -> str:
    def look() -> str | None:
        try:
            keeper.check()
        except LaunchError as error:
            return error.code
        return None

    return str(wait_for(look, "the Lease's word"))


def check_an_absent_image_shows_in_the_pod(run: Run) -> None:
    """The kubelet's reason for an image that does not exist is on the pod."""
    run.job(run.anchor(), "pass", image="registry.invalid/accelbench/nosuch:1")

    def waiting(pod: dict[str, Any]) -> bool:
        states = pod["status"].get("containerStatuses") or ()
        reasons = {((s.get("state") or {}).get("waiting") or {}).get("reason") for s in states}
        return bool(reasons & {"ErrImagePull", "ImagePullBackOff"})

    run.pod_when("load", waiting)


def check_what_fits_nowhere_says_so(run: Run) -> None:
    """An unschedulable pod has the condition, and it goes with its run."""
    run.job(run.anchor(), "pass", nodeSelector={"accelbench.io/conformance": "no-such-node"})

    def unschedulable(pod: dict[str, Any]) -> bool:
        conditions = pod["status"].get("conditions") or ()
        return any(c.get("reason") == "Unschedulable" for c in conditions)

    run.pod_when("load", unschedulable)


CHECKS: dict[str, Callable[[Run], None]] = {
    name.removeprefix("check_"): check
    for name, check in sorted(globals().items())
    if name.startswith("check_")
}


def main(argv: list[str] | None = None) -> int:
    """Run all checks, print a table, 1 if one failed."""
    parser = argparse.ArgumentParser(prog="conformance", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--context")
    parser.add_argument("--image", default=IMAGE, help="an image with python")
    options = parser.parse_args(argv)
    kube = KubeSettings(
        namespace=options.namespace, context=options.context, lease_renew_s=1.0, lease_stale_s=10.0
    )
    cluster = Cluster.connect(kube)
    print(f"cluster {cluster.version()}, namespace {cluster.namespace}")
    failed = 0
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            with made_up_run(cluster, kube, options.image) as run:
                check(run)
            said = "ok"
        except (AssertionError, LaunchError) as error:
            failed += 1
            said = f"FAILED: {error}"
        print(f"{name.replace('_', ' '):56} {time.monotonic() - started:6.1f} s  {said}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
