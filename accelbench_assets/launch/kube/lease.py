"""The Lease by which a run shows that its orchestrator lives, and by which others ask it to end.

Belongs here: creating it, renewing it from a thread, and what became of it: lost, or a wish to cancel.
Does not belong here: removing a run whose Lease went stale (``reap``), the objects it guards (``launch.eks``).

``renewTime`` is the API server's time, so that the clocks of orchestrator and reaper need not agree; how long the last
success is ago is judged on our monotonic clock.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError, shown
from accelbench_assets.settings_groups import KubeSettings

LOOK_S = 5.0
"""Longest pause between looks for a wish to cancel."""


def holder_identity() -> str:
    """``<host name>_<process id>`` of this process."""
    return f"{socket.gethostname()}_{os.getpid()}"


def lease_manifest(
    run_id: str,
    cell_id: str,
    anchor: Mapping[str, Any],
    *,
    now: datetime,
    expires_at: datetime,
    stale_s: float,
) -> dict[str, Any]:
    """The Lease of a run as it is created; *now* is the cluster's time, *anchor* the created ConfigMap."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": naming.base_name(run_id),
            "labels": naming.labels(run_id, cell_id, "lease"),
            "annotations": naming.annotations(run_id, expires_at, stale_s),
            "ownerReferences": [naming.owner_reference(anchor)],
        },
        "spec": {
            "holderIdentity": holder_identity(),
            "leaseDurationSeconds": max(1, math.ceil(stale_s)),
            "acquireTime": naming.rfc3339(now),
            "renewTime": naming.rfc3339(now),
        },
    }


def request_cancel(cluster: Cluster, run_id: str, who: str) -> bool:
    """Ask the run's orchestrator to end it, in the name of *who*; False when the run has no Lease."""
    body = {"metadata": {"annotations": {naming.CANCEL: who}}}
    return cluster.patch("Lease", naming.base_name(run_id), body) is not None


class LeaseKeeper:
    """Holds a run's Lease while entered: looks at it every ``min(5 s, lease_renew_s)``, renews it every
    ``lease_renew_s``.

    *on_renew* is called after each renewal, in a thread of its own so that it cannot hold the Lease up; what it raises
    is kept in ``warnings``, but for ``lease_lost``: then the run was settled as dead. Leaving stops at once; the Lease
    itself goes with the *anchor*. Entering raises ``KubeError``.
    """

    def __init__(
        self,
        cluster: Cluster,
        run_id: str,
        cell_id: str,
        anchor: Mapping[str, Any],
        kube: KubeSettings,
        expires_at: datetime,
        on_renew: Callable[[], None] = lambda: None,
    ) -> None:
        self.warnings: list[str] = []
        self.billed_since: float | None = None
        self._cluster = cluster
        self._run_id, self._cell_id, self._anchor = run_id, cell_id, anchor
        self._renew_s, self._stale_s = kube.lease_renew_s, kube.lease_stale_s
        self._expires_at = expires_at
        self._on_renew = on_renew
        self._name = naming.base_name(run_id)
        self._holder = holder_identity()
        self._uid = ""
        self._renewed = 0.0  # monotonic, taken before the renewal was sent
        self._end: LaunchError | None = None
        self._settled: LaunchError | None = None  # of the owner's thread; the other one writes _end
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{self._name}", daemon=True)
        self._owner: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._renewed = time.monotonic()
        manifest = lease_manifest(
            self._run_id,
            self._cell_id,
            self._anchor,
            now=self._cluster.server_time(),
            expires_at=self._expires_at,
            stale_s=self._stale_s,
        )
        lease = self._cluster.create(manifest)
        if (holder := _holder(lease)) != self._holder:
            raise KubeError(f"Run {self._run_id} is already being worked on by {holder}.", code="conflict")
        self._uid = str(lease["metadata"].get("uid") or "")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(0.5)  # a call under way ends by its own limit, in a daemon

    def check(self) -> None:
        """Raise ``LaunchError``: ``cancelled`` when somebody asked for the end, ``lease_lost`` when the Lease is gone,
        another's, or was not renewed for ``lease_stale_s`` seconds (others may already be removing the run), or when
        *on_renew* said so.
        """
        if (end := self._end or self._settled) is not None:
            raise end
        silent = time.monotonic() - self._renewed
        if silent >= self._stale_s:
            why = f" ({self._trouble})" if self._trouble else ""
            raise LaunchError(
                f"The run's Lease {self._name} was not renewed for {silent:.0f} s{why}.",
                code="lease_lost",
                hint="The reaper may have removed the run already. Check the connection to the cluster's API.",
            )

    # -- the thread ------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        pause = min(LOOK_S, self._renew_s)
        while self._end is None and self._settled is None and not self._stop.wait(pause):
            try:
                self._look(renew=time.monotonic() - self._renewed >= self._renew_s - pause / 2)
                self._trouble = ""
            except LaunchError as error:
                self._trouble = error.message
            except Exception as error:  # a thread that died would let the Lease go stale for nothing
                self._trouble = f"{type(error).__name__}: {shown(str(error))}"

    def _look(self, *, renew: bool) -> None:
        sent = time.monotonic()
        if renew:
            now = naming.rfc3339(self._cluster.server_time())
            lease = self._cluster.patch("Lease", self._name, {"spec": {"renewTime": now}}, retry_s=0)
        else:
            lease = self._cluster.get("Lease", self._name, retry_s=0)
        self._end = self._judge(lease)
        if renew and self._end is None:
            self._renewed = sent
            self._tell_owner()

    def _judge(self, lease: Mapping[str, Any] | None) -> LaunchError | None:
        if lease is None:
            return LaunchError(f"The run's Lease {self._name} is gone.", code="lease_lost")
        metadata = lease.get("metadata") or {}
        if who := (metadata.get("annotations") or {}).get(naming.CANCEL):
            return LaunchError(f"The run was cancelled by {shown(str(who))}.", code="cancelled")
        if metadata.get("uid") != self._uid or _holder(lease) != self._holder:
            return LaunchError(
                f"The run's Lease {self._name} is held by {_holder(lease) or 'nobody'}.", code="lease_lost"
            )
        if metadata.get("deletionTimestamp"):
            return LaunchError(f"The run's Lease {self._name} is being deleted.", code="lease_lost")
        return None

    def _tell_owner(self) -> None:
        if self._owner is not None and self._owner.is_alive():
            self._warn("the previous renewal's follow-up is still under way")
            return
        self._owner = threading.Thread(target=self._run_owner, name="lease-on-renew", daemon=True)
        self._owner.start()

    def _run_owner(self) -> None:
        try:
            self._on_renew()
        except Exception as error:  # a ledger that is down is no reason to let the run die
            if isinstance(error, LaunchError) and error.code == "lease_lost":
                self._settled = error
                return
            self._warn(
                error.message if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
            )

    def _warn(self, text: str) -> None:
        line = shown(text)
        if line not in self.warnings and len(self.warnings) < 20:
            self.warnings.append(line)


def _holder(lease: Mapping[str, Any]) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
