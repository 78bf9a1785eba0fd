"""The generator of a run: one try, apart from accelerators, without rights, with the plan as it is."""

from __future__ import annotations

import re

import pytest

from accelbench_assets.errors import LaunchError
from loadgen.plan import Plan
from tests.launch.manifest_cases import (
    CANARY,
    loaded,
    make_plan,
    of_kind,
    pod,
)

# -- the generator -------------------------------------------------------------------------------------------


def test_the_generator_runs_once_apart_from_accelerators_and_without_rights() -> None:
    job = of_kind(loaded(make_plan(shards=2), loadgen_secret="s3-keys"), "Job")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (
        0,
        930,
        600,
    )
    body = pod(job)
    assert body["restartPolicy"] == "Never"
    assert "tolerations" not in body
    affinity = body["affinity"]
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "accelbench.io/accelerator", "operator": "DoesNotExist"}]
    assert body["nodeSelector"] == {"topology.kubernetes.io/zone": "us-east-1a"}
    assert body["securityContext"]["runAsNonRoot"] is True
    assert body["securityContext"]["runAsUser"] == 10001
    (container,) = body["containers"]
    assert container["args"] == [
        "run", "--plan", "/etc/accelbench/plan.json", "--out", "s3://bucket/lake/_incoming/x",
        "--progress", "json", "--shard-index", "$(JOB_COMPLETION_INDEX)",
    ]  # fmt: skip
    assert (
        container["resources"]["requests"]
        == container["resources"]["limits"]
        == {"cpu": "4", "memory": "4Gi"}
    )
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/etc/accelbench", "/tmp", "/spool"}
    assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
    assert "nodeSelector" not in pod(of_kind(loaded(make_plan(), zone=None), "Job"))


def test_workers_get_a_processor_each() -> None:
    (container,) = pod(of_kind(loaded(make_plan(workers=6)), "Job"))["containers"]
    assert container["resources"]["limits"] == {"cpu": "7", "memory": "10Gi"}


def test_the_plan_arrives_as_it_is() -> None:
    plan = make_plan(shards=2)
    config, job = loaded(plan)
    assert Plan.from_json(config["data"]["plan.json"]) == plan
    (volume,) = [v for v in pod(job)["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == config["metadata"]["name"] == "accelbench-0123456789ab-plan"


@pytest.mark.parametrize(
    ("plan", "environment", "says"),
    [
        (make_plan(workload={"prompts": "x" * 1_100_000}), {}, "1,048,576"),
        (make_plan(dataset="/home/me/requests.jsonl"), {}, "s3://"),
        (make_plan(headers={"Authorization": "Bearer x"}), {}, "api_key_env"),
        (make_plan(), {"AWS_SECRET_ACCESS_KEY": "x" * 20}, "loadgen_secret"),
        (make_plan(), {"DATABASE_URL": "postgresql://u:p@h/d"}, "loadgen_secret"),
        (make_plan(), {"NOTE": CANARY}, "loadgen_secret"),
    ],
)
def test_what_a_manifest_must_not_carry_is_refused(
    plan: Plan, environment: dict[str, str], says: str
) -> None:
    with pytest.raises(LaunchError, match=re.escape(says)) as caught:
        loaded(plan, env=environment)
    assert caught.value.code == "bad_config"
    assert CANARY not in str(caught.value)
