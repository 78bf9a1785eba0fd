"""NodeClaims, as Karpenter makes them when a pod needs a node.

Belongs here: a claim's object, its conditions, the event about one that EC2 refuses. Does not belong here: when a node
is ordered and when it comes (``nodes``).
"""

from __future__ import annotations

import uuid

from tests.launch.kube.conditions import with_condition
from tests.launch.kube.events import Recorder
from tests.launch.kube.kinds import NODE_CLAIM, Obj
from tests.launch.kube.moments import stamp
from tests.launch.kube.node_specs import NodeSpec
from tests.launch.kube.store import Store

LONGEST = 300  # a longer text of the cloud is cut
NO_CAPACITY = "InsufficientCapacityError"


def order(store: Store, events: Recorder, spec: NodeSpec, name: str) -> str:
    """Ask for the machine of *spec* as claim *name*; the name. One without capacity is deleted after its event."""
    meta = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": stamp()}
    claim: Obj = {"apiVersion": NODE_CLAIM.api_version, "kind": NODE_CLAIM.name, "metadata": meta, "spec": {}}
    text = spec.refused[:LONGEST]
    if spec.refused and spec.reason == NO_CAPACITY:
        told = f"NodeClaim {name} event: {text}"
        events.tell(NODE_CLAIM, claim, "Warning", NO_CAPACITY, told, "karpenter")
        return name
    launched = not spec.refused
    conditions = with_condition([], "Launched", launched, "Launched" if launched else spec.reason, text)
    if launched:
        waits = "Node not registered with cluster"
        conditions = with_condition(conditions, "Registered", "Unknown", "NodeNotFound", waits)
    store.put(NODE_CLAIM, {**claim, "status": {"conditions": conditions}})
    return name
