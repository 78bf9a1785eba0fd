"""NodeClaims: which are a pod's, what is said of them, and what that makes of a pod without a node."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
import yaml

from accelbench_assets.launch.kube.claims import KEPT, ClaimReader, nominated, words
from accelbench_assets.launch.kube.client import KINDS, Cluster
from accelbench_assets.launch.kube.diagnose import starting_trouble
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.launch.kube.look import Claim, Look
from tests.infra.files import INFRA
from tests.launch.pod_cases import GPU_FULL, NAME, NOW, event, pod, stamp

ICE = (
    "NodeClaim gpu-x7k2q event: creating instance, insufficient capacity, with fleet error(s), "
    "InsufficientInstanceCapacity: We currently do not have sufficient p5.48xlarge capacity in the Availability Zone "
    "you requested (us-east-1a)."
)


def ordered(claim: str, seconds_ago: float, about: str = NAME) -> dict[str, Any]:
    return event(
        "Nominated", f"Pod should schedule on: nodeclaim/{claim}", about=about, seconds_ago=seconds_ago
    )


def test_claims_are_those_named_for_a_pod_the_latest_last() -> None:
    events = [ordered("b-2", 5), ordered("a-1", 50), ordered("b-2", 40), event("Pulled", "nodeclaim/x")]
    node = event("Nominated", "Pod should schedule on: node/ip-10-0-0-1.ec2.internal")
    both = event(
        "Nominated", "Pod should schedule on: nodeclaim/c-3, node/ip-10-0-0-1.ec2.internal", seconds_ago=1
    )
    assert nominated([*events, node, both]) == [(NAME, "a-1"), (NAME, "b-2"), (NAME, "c-3")]


def test_a_refusal_is_told_in_ec2s_words() -> None:
    assert words(ICE).startswith("creating instance, with fleet error(s), InsufficientInstanceCapacity: We ")
    assert words("anything else") == "anything else"


class Said:
    """Stands for the cluster: claims by name, events about them, and what is refused."""

    def __init__(self, claims: dict[str, Any], events: dict[str, list[str]], *refused: str) -> None:
        self.claims, self.events, self.refused = claims, events, set(refused)
        self.asked: list[str] = []

    def _ask(self, kind: str) -> None:
        self.asked.append(kind)
        if kind in self.refused:
            raise KubeError("Kubernetes refused it.", code="api_denied", status=403)
        if "api" in self.refused:
            raise KubeError("no answer", code="api_unavailable")

    def get(self, kind: str, name: str, **more: Any) -> Any:
        self._ask(kind)
        return self.claims.get(name)

    def list(self, kind: str, *, fields: str, namespace: str, **more: Any) -> Any:
        self._ask(kind)
        assert namespace == "default"  # of what belongs to no namespace
        assert fields.startswith("involvedObject.kind=NodeClaim,")
        texts = self.events.get(fields.rpartition("=")[2], [])
        return [{"type": "Warning", "message": text} for text in texts]


def claim(*conditions: tuple[str, str, str, str]) -> dict[str, Any]:
    fields = ("type", "status", "reason", "message")
    found = [dict(zip(fields, c, strict=True)) | {"lastTransitionTime": stamp(30)} for c in conditions]
    return {"status": {"conditions": found}}


def read(said: Said, *names: str, times: int = 1) -> tuple[Claim, ...]:
    reader = ClaimReader(cast("Cluster", said))
    for _ in range(times):
        found = reader.read([ordered(name, 60 - i) for i, name in enumerate(names)])
    return found


def test_a_claim_that_was_deleted_at_once_is_known_by_its_event() -> None:
    said = Said({}, {"gpu-x7k2q": [ICE]})
    reader = ClaimReader(cast("Cluster", said))
    (found,) = reader.read([ordered("gpu-x7k2q", 5)])
    assert (found.name, found.pod, found.launched_at) == ("gpu-x7k2q", NAME, None)
    assert found.said == (words(ICE),)
    said.events.clear()
    assert reader.read([ordered("gpu-x7k2q", 5)])[0].said == (words(ICE),), "what was heard is not forgotten"


def test_conditions_say_what_was_refused_since_when_it_is_there_and_what_it_waits_for() -> None:
    refused = claim(("Launched", "False", "LaunchFailed", "creating instance, UnauthorizedOperation: no"))
    unknown = claim(("Launched", "Unknown", "LaunchTemplateNotFound", "no launch template"))
    fresh = claim(("Launched", "Unknown", "AwaitingReconciliation", "object is awaiting reconciliation"))
    there = claim(
        ("Launched", "True", "Launched", ""), ("Registered", "Unknown", "NodeNotFound", "not registered")
    )
    names = {"a": refused, "b": unknown, "c": there}
    a, b, c = read(Said(names, {}), *names)
    assert a.said == ("creating instance, UnauthorizedOperation: no",)
    assert b.said == ("no launch template",)
    assert (c.said, c.waits_for, c.launched_at) == ((), "not registered", NOW - timedelta(seconds=30))
    (d,) = read(Said({"d": fresh}, {}), "d")
    assert (d.said, d.launched_at) == ((), None), "it is only new"
    assert len(read(Said({}, {}), *"abcdefgh")) == KEPT


def test_a_pod_whose_orders_fail_again_and_again_hides_no_other_pods_claim() -> None:
    events = [ordered("x", 90, about="p2"), *(ordered(name, 80 - n) for n, name in enumerate("abcd"))]
    found = ClaimReader(Said({}, {})).read(events)  # type: ignore[arg-type]
    assert [(one.pod, one.name) for one in found] == [("p2", "x"), (NAME, "b"), (NAME, "c"), (NAME, "d")]


@pytest.mark.parametrize("refused", [("NodeClaim",), ("Event",), ("NodeClaim", "Event")])
def test_what_may_not_be_read_is_asked_for_once_and_the_rest_is_used(refused: tuple[str, ...]) -> None:
    said = Said({"a": claim(("Launched", "False", "x", "by condition"))}, {"a": ["by event"]}, *refused)
    (found,) = read(said, "a", times=3)
    expected = ("by event",) * ("Event" not in refused) + ("by condition",) * ("NodeClaim" not in refused)
    assert found.said == expected
    for kind in ("NodeClaim", "Event"):
        assert said.asked.count(kind) == (1 if kind in refused else 3)


def test_an_api_that_does_not_answer_ends_nothing() -> None:
    said = Said({}, {}, "api")
    assert read(said, "a", times=2) == (Claim("a", NAME),)
    assert said.asked.count("Event") == 2


AGO = NOW - timedelta(seconds=30)
REFUSED = Claim("a", NAME, said=(words(ICE),))


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ((), ("no_capacity", False)),  # all that is known is that a node was ordered and none came
        ((Claim("a", NAME),), ("no_capacity", False)),
        ((REFUSED,), ("no_capacity", False)),
        (
            (replace(REFUSED, said=("with fleet error(s), UnfulfillableCapacity: Unable to",)),),
            ("no_capacity", False),
        ),
        (
            (replace(REFUSED, said=("ReservationCapacityExceeded: The reservation is full",)),),
            ("no_capacity", False),
        ),
        ((REFUSED, Claim("b", NAME, said=("VcpuLimitExceeded: too many",))), ("quota", True)),
        ((replace(REFUSED, said=("MaxSpotInstanceCountExceeded: too many",)),), ("quota", True)),
        ((replace(REFUSED, said=("UnauthorizedOperation: not authorized",)),), ("unschedulable", False)),
        ((replace(REFUSED, pod="another"),), ("no_capacity", False)),
        ((Claim("b", "another", said=("VcpuLimitExceeded: too many",)),), ("no_capacity", False)),
        # AWS gave one after all: its lack is not the reason any more.
        ((REFUSED, Claim("b", NAME, launched_at=AGO, waits_for="not registered")), ("unschedulable", False)),
        ((Claim("a", NAME, launched_at=AGO), replace(REFUSED, name="b")), ("no_capacity", False)),
    ],
)
def test_what_a_claim_makes_of_a_pod_without_a_node(
    claims: tuple[Claim, ...], expected: tuple[str, bool]
) -> None:
    one = pod(None, node=None, unscheduled=GPU_FULL)
    found = starting_trouble(Look(pods=[one], now=NOW, events=[ordered("a", 60)], claims=claims), "server")
    assert found is not None
    assert (found.code, found.certain) == expected


def test_nothing_is_read_of_a_cluster_without_karpenter() -> None:
    said = Said({}, {})
    assert ClaimReader(cast("Cluster", said)).read([event("FailedScheduling", GPU_FULL)]) == ()
    assert said.asked == []


def test_the_rights_are_there_and_are_to_read_only() -> None:
    assert KINDS["NodeClaim"] == ("karpenter.sh/v1", "nodeclaims")
    documents = yaml.safe_load_all((INFRA / "k8s" / "20-rbac.yaml").read_text(encoding="utf-8"))
    roles = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]): one for one in documents
    }
    account = {"kind": "ServiceAccount", "name": "accelbench-orchestrator", "namespace": "accelbench"}

    def granted(kind: str, namespace: str | None) -> list[tuple[str, str, tuple[str, ...]]]:
        bound = [
            one["roleRef"]["name"]
            for (k, where, _), one in roles.items()
            if k == f"{kind}Binding" and where == namespace and account in one["subjects"]
        ]
        return [
            (group, resource, tuple(rule["verbs"]))
            for name in bound
            for rule in roles[kind, namespace, name]["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        ]

    assert ("karpenter.sh", "nodeclaims", ("get",)) in granted("ClusterRole", None)
    assert granted("Role", "default") == [("", "events", ("list",))]
