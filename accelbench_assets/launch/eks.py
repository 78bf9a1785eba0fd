"""The launcher for Kubernetes: servers as a Deployment, load as a Job, both owned by one anchor and a Lease.

Belongs here: the order in which a run's objects come and go, and what is yielded to the benchmark.
Does not belong here: the objects (``manifests``), waiting and judging (``kube.serving``, ``kube.driving``), removing
what a dead orchestrator left (``kube.reap``).

One run at a time a launcher object. Everything of a run is owned by its anchor, so leaving ``attempt`` removes what
leaving ``serve`` could not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from accelbench_assets.errors import AccelBenchError, LaunchError
from accelbench_assets.launch.base import (
    AttemptHold,
    Deadline,
    Endpoint,
    EventSink,
    LoadManifest,
    ServerSpec,
    utc_now,
)
from accelbench_assets.launch.facts import iso
from accelbench_assets.launch.generator import read_shard
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.driving import START_ALLOWANCES_S, Drive
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.follow import LogFollower
from accelbench_assets.launch.kube.lease import LeaseKeeper
from accelbench_assets.launch.kube.look import Object
from accelbench_assets.launch.kube.reap import UNSEEN_S, reaper_seen, remove_run
from accelbench_assets.launch.kube.start import Start
from accelbench_assets.launch.kube.teardown import (
    LEAVING_S,
    LIMIT_S,
    await_gone,
    remove_parts,
    still_there,
    undisturbed,
)
from accelbench_assets.launch.manifests import SERVER, anchor_object
from accelbench_assets.settings import Settings
from loadgen.plan import Plan

_PASSED_ON = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@dataclass(slots=True)
class _Attempt:
    """What ``attempt`` made and ``serve`` and ``load`` use."""

    run_id: str
    anchor: Object
    keeper: LeaseKeeper
    expires_at: datetime
    on_event: EventSink | None = None


class EksLauncher:
    """Serves cells of EC2 instance types on a Kubernetes cluster. *lake_url* is where generators write."""

    name = "eks"
    paid = True
    remote = True

    def __init__(
        self,
        settings: Settings,
        lake_url: str,
        *,
        cluster: Cluster | None = None,
        start_allowances_s: tuple[float, ...] = START_ALLOWANCES_S,
    ) -> None:
        self._settings, self._kube, self._lake_url = settings, settings.kube, lake_url
        self._known = cluster
        self._start_allowances_s = start_allowances_s
        self._attempt: _Attempt | None = None

    def _cluster(self) -> Cluster:
        if self._known is None:
            self._known = Cluster.connect(self._kube)
        return self._known

    def attempt_facts(self) -> dict[str, Any]:
        """The cluster's identity and namespace, and the time there. Raises ``LaunchError``: ``no_cluster``,
        ``api_denied``, ``bad_config`` for a lake that pods cannot reach, ``no_reaper``.
        """
        cluster = self._cluster()
        facts = {
            "cluster": cluster.namespace_uid(),
            "namespace": cluster.namespace,
            "registered_at": iso(cluster.server_time()),
        }
        if not self._lake_url.startswith("s3://") and not cluster.emulated():
            raise LaunchError(
                f"Pods cannot write into {self._lake_url}, which is on this machine.",
                code="bad_config",
                hint="Put the lake on S3 (setting lake).",
            )
        if self._kube.require_reaper and not cluster.emulated():
            _require_reaper(cluster)
        return facts

    @contextmanager
    def attempt(
        self, run_id: str, cell_id: str, deadline: Deadline, on_renew: Callable[[], None]
    ) -> Iterator[AttemptHold]:
        """See ``Launcher.attempt``: anchor and Lease. Codes: ``conflict`` when another process works on the run, and
        those of the client.
        """
        cluster, mine, waits = self._cluster(), True, True
        current: _Attempt | None = None
        lasts = timedelta(seconds=deadline.remaining() + naming.EXPIRY_MARGIN_S)
        expires_at = cluster.server_time() + lasts
        try:
            try:
                anchor = cluster.create(anchor_object(run_id, cell_id, self._kube, expires_at=expires_at))
                keeper = LeaseKeeper(cluster, run_id, cell_id, anchor, self._kube, expires_at, on_renew)
                keeper.__enter__()
            except KubeError as error:
                mine = error.code != "conflict"  # another process works on it: nothing here is ours to remove
                raise
            try:
                self._attempt = current = _Attempt(run_id, anchor, keeper, expires_at)
                yield keeper
            finally:
                self._attempt = None
                keeper.__exit__(None, None, None)
        except BaseException as error:
            waits = isinstance(error, Exception)
            raise
        finally:
            if mine:
                told = [f"Removing run {run_id} did not end in time: what is left is the reaper's to remove."]

                def remove() -> None:
                    told[:] = _remove_whole(cluster, run_id, waits=waits)

                try:
                    undisturbed(remove)
                finally:
                    _tell(current, told)

    def _current(self, run_id: str) -> _Attempt:
        if self._attempt is None or self._attempt.run_id != run_id:
            raise RuntimeError(f"Run {run_id} is served outside of its attempt().")
        return self._attempt

    @contextmanager
    def serve(self, spec: ServerSpec, deadline: Deadline, on_event: EventSink) -> Iterator[Endpoint]:
        """See ``Launcher.serve``; inside ``attempt`` only. Codes: those of ``kube.diagnose``, ``wrong_version``,
        ``wrong_instance``, of the client and of the manifests. Events say ``leaving_s``, how long leaving may take, and
        ``leaving`` when it begins: who would end this process must not do it in the midst of that.
        """
        cluster, current = self._cluster(), self._current(spec.run_id)
        current.on_event = on_event
        follower = LogFollower(cluster, spec.work_dir, "engine", SERVER)
        endpoint: Endpoint | None = None
        waits = True
        try:
            on_event("phase", "asking the cluster for servers", {"leaving_s": LEAVING_S})
            start = Start(
                cluster, self._settings, spec, current.anchor, current.keeper, deadline, on_event, follower
            )
            endpoint = start.endpoint(current.expires_at)
            yield endpoint
        except BaseException as error:
            # Not on an interrupt, nor for pods whose node will never say that they are gone.
            waits = isinstance(error, Exception) and getattr(error, "code", "") not in (
                "node_lost",
                "lease_lost",
            )
            raise
        finally:
            told = ["The servers' removal did not end in time."]

            def remove() -> None:
                told[:] = _remove_served(cluster, spec.run_id, waits=waits)

            def tell() -> None:
                on_event("phase", "taking the servers away", {"leaving": True})

            try:
                undisturbed(remove, meanwhile=tell)
            finally:
                if endpoint is not None and not told:
                    endpoint.facts["torn_down_at"] = iso(utc_now())
                follower.close()
                for text in (*told, *current.keeper.warnings):
                    on_event("warning", text, {})

    def load(
        self,
        plan: Plan,
        endpoint: Endpoint,
        out: str,
        spec: ServerSpec,
        deadline: Deadline,
        on_event: EventSink,
    ) -> LoadManifest:
        """See ``Launcher.load``; the generators are pods. Codes beside it: ``node_lost``, ``evicted``, ``cancelled``,
        ``lease_lost``, and those of the client.
        """
        current = self._current(spec.run_id)
        drive = Drive(
            cluster=self._cluster(),
            kube=self._kube,
            spec=spec,
            anchor=current.anchor,
            hold=current.keeper,
            endpoint=endpoint,
            deadline=deadline,
            on_event=on_event,
            expires_at=current.expires_at,
            env=_generator_env(out, self._settings.region),
            start_allowances_s=self._start_allowances_s,
        )
        drive.to_the_end(plan, out)
        return LoadManifest(tuple(read_shard(out, shard) for shard in range(plan.shard_count)), 0)


def _generator_env(out: str, region: str) -> dict[str, str]:
    """Where the generators find S3; keys come from a Secret or the service account, never from here."""
    if not out.startswith("s3://"):
        return {}
    given = {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)}
    return {"AWS_REGION": region, **given}


def _require_reaper(cluster: Cluster) -> None:
    """Raise ``LaunchError`` (``no_reaper``) when nobody would remove what a dead orchestrator leaves."""
    seen = reaper_seen(cluster)
    if seen is not None and (cluster.server_time() - seen).total_seconds() <= UNSEEN_S:
        return
    since = "has never looked after this cluster" if seen is None else f"was last at work at {iso(seen)}"
    raise LaunchError(
        f"The reaper {since}: nodes of a run whose orchestrator dies would be paid for without end.",
        code="no_reaper",
        hint="Apply infra/k8s/80-reaper.yaml, or run `accelbench reap --cluster` every five minutes.",
    )


def _remove_served(cluster: Cluster, run_id: str, *, waits: bool) -> list[str]:
    """Delete what serves and loads; sentences about what stays, none when nothing does."""
    told = remove_parts(cluster, run_id)
    if left := still_there(cluster, run_id, LIMIT_S - 5.0 if waits else 0.0):
        told.append(f"Not gone yet: {', '.join(left)}. The cluster is removing them.")
    return told


def _tell(attempt: _Attempt | None, told: list[str]) -> None:
    """Pass on what leaving an attempt could not remove; whoever listened to its servers still does."""
    if attempt is None:
        return
    for text in told:
        attempt.keeper.warnings.append(text)
        if attempt.on_event is not None:
            attempt.on_event("warning", text, {})


def _remove_whole(cluster: Cluster, run_id: str, *, waits: bool) -> list[str]:
    """Nothing of the run stays; what cannot be removed now goes with the anchor or by the reaper, and is told of."""
    try:
        # All but pods goes as soon as it is asked to.
        waits = waits and bool(await_gone(cluster, run_id, None, 0.0))
        left = remove_run(cluster, run_id, wait_s=LIMIT_S - 5.0 if waits else 0.0)
    except AccelBenchError as error:
        return [f"{error.message} What is left of run {run_id} is the reaper's to remove."]
    return [f"Left of run {run_id} for the reaper: {', '.join(left)}."] if left else []
