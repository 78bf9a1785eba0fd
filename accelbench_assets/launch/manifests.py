"""The objects of a run as plain dicts: anchor, Service, Deployment; plan and generator's Job.

Belongs here: which object carries which fact of a cell, its plan and the settings. Pure: equal input gives equal
output, nothing is called, and no value of a secret is ever in it (only names of Secrets).
Does not belong here: images, arguments and resources of an engine (``engines.images``), parts both kinds of pod share
(``manifest_parts``), names and labels (``kube.naming``), creating objects (``kube``).

Where the parameters of a benchmark stand: quantization, parallelism and context length in the server's arguments;
concurrency, lengths of prompt and answer and the dataset in the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from accelbench_assets.engines.container import CACHE, ContainerEngine, instance_of, model_of
from accelbench_assets.engines.images import container_engine
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.manifest_parts import (
    GIB,
    Manifest,
    accelerated_placement,
    cache_volume,
    env_list,
    hardened,
    literal,
    metadata,
    model_source,
    plain_placement,
    template,
)
from accelbench_assets.scrub import looks_secret
from accelbench_assets.settings_groups import KubeSettings
from loadgen.plan import Plan

__all__ = ["GENERATOR", "PLAN_KEY", "PLAN_PATH", "SERVER", "load_objects", "owned", "server_objects"]

SERVER, GENERATOR = "server", "loadgen"
"""Names of the containers."""
PLAN_KEY = "plan.json"
PLAN_FOLDER = "/etc/accelbench"
PLAN_PATH = f"{PLAN_FOLDER}/{PLAN_KEY}"
TMP, SPOOL = "/tmp", "/spool"  # noqa: S108 - volumes of the generator's pod
MAX_CONFIGMAP_BYTES = 1024 * 1024
STARTUP_PERIOD_S = 2
"""Seconds between looks for the first answer: the resolution of "ready" in a run's phases."""
SERVER_GRACE_S, GENERATOR_GRACE_S = 10, 30
"""Seconds to end in: a server has nothing to save, a generator closes its last part and uploads it."""
JOB_TTL_S = 600
LOADGEN_UID = 10001
LOADGEN_CPU, LOADGEN_MEMORY_GIB = 4, 4
"""Of one shard: one process that sends, one that decodes, and room so that neither is ever throttled. A command with
several workers gets one processor and 1 GiB for each and one for their parent."""


def anchor_object(run_id: str, cell_id: str, kube: KubeSettings, *, expires_at: datetime) -> Manifest:
    """The ConfigMap that owns all other objects of a run and is made before the run's cell is looked at."""
    notes = naming.annotations(run_id, expires_at, kube.lease_stale_s)
    marks = naming.labels(run_id, cell_id, "anchor")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(naming.base_name(run_id), kube.namespace, marks, notes),
        "data": {"run_id": run_id},
    }


def server_objects(
    spec: ServerSpec, kube: KubeSettings, *, expires_at: datetime, region: str
) -> list[Manifest]:
    """Anchor, Service and Deployment of a run, in the order of their creation, without owner references.

    *expires_at* is timezone-aware (``naming.annotations``). Raises ``LaunchError`` for a cell that this launcher cannot
    serve as its key says: ``unsupported``, ``does_not_fit``, ``wrong_weights``, ``bad_config``.
    """
    engine = container_engine(spec.cell)
    head = _Head(spec, kube, expires_at)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": head.metadata("server", naming.base_name(spec.run_id)),
        "spec": {
            "type": "ClusterIP",
            "selector": head.match("server"),
            "ports": [{"name": "http", "protocol": "TCP", "port": engine.port, "targetPort": "http"}],
        },
    }
    anchor = anchor_object(spec.run_id, spec.cell.cell_id, kube, expires_at=expires_at)
    return [anchor, service, _deployment(head, engine, region)]


def load_objects(
    spec: ServerSpec,
    kube: KubeSettings,
    plan: Plan,
    out: str,
    *,
    zone: str | None,
    deadline_s: int,
    expires_at: datetime,
    env: Mapping[str, str],
) -> list[Manifest]:
    """ConfigMap with the plan, and the Job of its shards, without owner references.

    *out* is the URI samples go to, *zone* that of the servers where known, *deadline_s* >= 1 the seconds after which
    Kubernetes ends the Job, *env* variables of the generator. Raises ``LaunchError`` (``bad_config``): a plan over
    1 MiB, a dataset on this machine's disk, a variable or header that looks secret.
    """
    text = plan.to_json()
    if (size := len(text.encode()) + len(PLAN_KEY)) > MAX_CONFIGMAP_BYTES:
        raise LaunchError(
            f"The plan has {size:,} bytes, and a ConfigMap holds {MAX_CONFIGMAP_BYTES:,}.",
            code="bad_config",
            hint="Put its requests into a dataset on S3, or take fewer steps.",
        )
    if plan.dataset is not None and not plan.dataset.startswith("s3://"):
        raise LaunchError(
            f"The dataset {plan.dataset} is on this machine, where a pod cannot read it.",
            code="bad_config",
            hint="Give it as s3://bucket/key.",
        )
    if secret := next(filter(looks_secret, plan.headers), None):
        raise LaunchError(
            f"The header {secret} of the plan looks like a secret, and a ConfigMap is no place for one.",
            code="bad_config",
            hint="Use api_key_env, with the key in the Secret that kube.loadgen_secret names.",
        )
    head = _Head(spec, kube, expires_at)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": head.metadata("plan", naming.plan_name(spec.run_id)),
        "immutable": True,
        "data": {PLAN_KEY: text},
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": head.metadata("load", naming.load_name(spec.run_id)),
        "spec": {
            "completionMode": "Indexed",
            "completions": plan.shards,
            "parallelism": plan.shards,
            "backoffLimit": 0,  # a second try would be a second measurement under the first one's name
            "activeDeadlineSeconds": max(1, deadline_s),
            "ttlSecondsAfterFinished": JOB_TTL_S,
            "template": _generator_template(head, plan, out, zone, env),
        },
    }
    return [config, job]


def owned(manifest: Mapping[str, Any], anchor: Mapping[str, Any]) -> Manifest:
    """*manifest* as a dependent of the created *anchor*: the cluster removes it when the anchor goes."""
    meta = {**manifest["metadata"], "ownerReferences": [naming.owner_reference(anchor)]}
    return {**manifest, "metadata": meta}


class _Head:
    """What every object of one run says of itself."""

    def __init__(self, spec: ServerSpec, kube: KubeSettings, expires_at: datetime) -> None:
        self.spec, self.kube = spec, kube
        self.annotations = naming.annotations(spec.run_id, expires_at, kube.lease_stale_s)

    def labels(self, component: str) -> dict[str, str]:
        return naming.labels(self.spec.run_id, self.spec.cell.cell_id, component)

    def match(self, component: str) -> dict[str, str]:
        wanted = (naming.RUN_LABEL, naming.COMPONENT_LABEL)
        return {name: value for name, value in self.labels(component).items() if name in wanted}

    def metadata(self, component: str, name: str) -> Manifest:
        return metadata(name, self.kube.namespace, self.labels(component), self.annotations)


def _deployment(head: _Head, engine: ContainerEngine, region: str) -> Manifest:
    spec, kube = head.spec, head.kube
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": head.metadata("server", naming.base_name(spec.run_id)),
        "spec": {
            "replicas": spec.cell.deployment.replicas,
            # A pod more than there are accelerators would wait for ever, so the old one goes first.
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": math.ceil(kube.provisioning_s + kube.start_s),
            "selector": {"matchLabels": head.match("server")},
            "template": template(
                head.labels("server"),
                head.annotations,
                {
                    "serviceAccountName": kube.server_service_account,
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": SERVER_GRACE_S,
                    **accelerated_placement(spec.cell.instance, engine.taint),
                    # The images' user is root and their files are its own. Root without rights: no capability, no
                    # way to gain one, the runtime's system calls only.
                    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [_server(head, engine, region)],
                    "volumes": [_shared_memory(spec), cache_volume(kube.model_cache, model_of(spec.cell))],
                },
            ),
        },
    }


def _images(spec: ServerSpec, kube: KubeSettings, engine: ContainerEngine) -> dict[str, str]:
    """The settings' images; where they leave it open, the one that was seen when the cell's release was found."""
    released = {engine.flavour: spec.engine_image} if spec.engine_image else {}
    return {**released, **kube.engine_images}


def _server(head: _Head, engine: ContainerEngine, region: str) -> Manifest:
    spec, kube, cell = head.spec, head.kube, head.spec.cell
    source = model_source(spec, kube.model_cache, engine)
    arguments = engine.args(cell, source.model, source.revision, spec.served_model_name or cell.model)
    look = {"httpGet": {"path": engine.health_path, "port": "http"}}
    row = model_of(cell)
    env = env_list({**engine.env(cell), "AWS_REGION": region, "AWS_DEFAULT_REGION": region})
    env.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    # Gated, or not known: the Secret may be absent.
    if source.on_hub and (row is None or row.gated is not False):
        token = {"name": kube.hf_secret, "key": "token", "optional": True}
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}})
    return {
        "name": SERVER,
        "image": engine.image(cell.engine_version, _images(spec, kube, engine)),
        "imagePullPolicy": "IfNotPresent",
        **({"command": list(engine.command)} if engine.command else {}),
        "args": literal(arguments),
        "env": env,
        "ports": [{"name": "http", "containerPort": engine.port, "protocol": "TCP"}],
        "resources": engine.resources(instance_of(cell)),
        "startupProbe": {
            **look,
            "periodSeconds": STARTUP_PERIOD_S,
            "timeoutSeconds": 5,
            "failureThreshold": math.ceil(kube.start_s / STARTUP_PERIOD_S),
        },
        # No liveness probe: a server at its limit answers /health late, and a restart would be measured as load.
        # One that has died ends its process, which is seen without a probe.
        "readinessProbe": {**look, "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 6},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": hardened(drop=engine.drop_capabilities),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of this pod
            {"name": "cache", "mountPath": CACHE},
        ],
    }


def _shared_memory(spec: ServerSpec) -> Manifest:
    """``/dev/shm`` of a quarter of the memory, 2 to 64 GiB: the container's default of 64 MiB stops tensor parallelism.
    What is used of it counts against the memory limit.
    """
    gib = min(64, max(2, instance_of(spec.cell).memory_mib // 4 // 1024))
    return {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{gib}Gi"}}


def _generator_template(
    head: _Head, plan: Plan, out: str, zone: str | None, env: Mapping[str, str]
) -> Manifest:
    return template(
        head.labels("load"),
        head.annotations,
        {
            "serviceAccountName": head.kube.loadgen_service_account,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GENERATOR_GRACE_S,
            **plain_placement(zone, head.match("load")),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": LOADGEN_UID,
                "runAsGroup": LOADGEN_UID,
                "fsGroup": LOADGEN_UID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_generator(head, plan, out, env)],
            "volumes": [
                {"name": "plan", "configMap": {"name": naming.plan_name(head.spec.run_id)}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "spool", "emptyDir": {"sizeLimit": "20Gi"}},
            ],
        },
    )


def _generator(head: _Head, plan: Plan, out: str, env: Mapping[str, str]) -> Manifest:
    kube = head.kube
    more = plan.workers if plan.workers > 1 else 0
    size = {
        "cpu": str(max(LOADGEN_CPU, more + 1)),
        "memory": f"{max(LOADGEN_MEMORY_GIB * GIB, (LOADGEN_MEMORY_GIB + more) * GIB) // GIB}Gi",
    }
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    variables = env_list({"TMPDIR": SPOOL, "HOME": TMP, **env})
    variables.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": index})
    arguments = ["run", "--plan", PLAN_PATH, "--out", out, "--progress", "json"]
    found: Manifest = {
        "name": GENERATOR,
        "image": kube.loadgen_image,
        "imagePullPolicy": "IfNotPresent",
        "args": [*literal(arguments), "--shard-index", "$(JOB_COMPLETION_INDEX)"],
        "env": variables,
        "resources": {"requests": size, "limits": dict(size)},  # equal: the last to be evicted
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {**hardened(), "readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": TMP},
            {"name": "spool", "mountPath": SPOOL},
        ],
    }
    if kube.loadgen_secret:  # keys of S3 and of the server under test, by reference
        found["envFrom"] = [{"secretRef": {"name": kube.loadgen_secret}}]
    return found
