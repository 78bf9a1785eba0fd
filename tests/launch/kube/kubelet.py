"""The kubelets of all nodes: which pods run.

Belongs here: starting what is bound, ending what is deleted, silence of lost nodes. Does not belong here: the life
of one pod (``pod_run``).
"""

from __future__ import annotations

from tests.launch.kube.conditions import is_finished
from tests.launch.kube.deletion import DeleteOptions, delete
from tests.launch.kube.kinds import NODE, POD, Obj, is_deleting, name_of, namespace_of, uid_of
from tests.launch.kube.pod_run import Machine, PodRun


class Kubelet:
    """One object for all nodes, since they share a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.store = machine, machine.registry.store
        self.runs: dict[str, PodRun] = {}

    def sync(self) -> None:
        there = {}
        for pod in self.store.all(POD):
            there[uid_of(pod)] = pod
            node = pod["spec"].get("nodeName")
            if node and not self.machine.is_silent(node) and self.store.find(NODE, None, node):
                self._one(pod)
        for uid in [uid for uid in self.runs if uid not in there]:
            self.runs.pop(uid).cut(silent=True)

    def _one(self, pod: Obj) -> None:
        run = self.runs.get(uid_of(pod))
        if is_deleting(pod):
            if run is None or is_finished(pod):
                self._drop(pod)
            else:
                run.end(float(pod["metadata"].get("deletionGracePeriodSeconds", 30)))
        elif run is None and not is_finished(pod):
            run = self.runs[uid_of(pod)] = PodRun(self.machine, pod)
            run.start()

    def _drop(self, pod: Obj) -> None:
        if pod["metadata"].get("deletionGracePeriodSeconds") != 0 or not pod["metadata"].get("finalizers"):
            options = DeleteOptions(grace_s=0, uid=uid_of(pod))
            delete(self.machine.registry, POD, namespace_of(pod), name_of(pod), options)

    def lose(self, node: str) -> None:
        """Everything on *node* ends unseen."""
        for uid in [uid for uid, run in self.runs.items() if run.node == node]:
            self.runs.pop(uid).cut(silent=True)

    def is_known(self, node: str) -> bool:
        return self.store.find(NODE, None, node) is not None

    def find(self, pod: Obj) -> PodRun | None:
        return self.runs.get(uid_of(pod))

    def stop(self) -> None:
        """End everything now."""
        for run in self.runs.values():
            run.cut(silent=True)
        self.runs.clear()
