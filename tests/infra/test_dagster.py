"""``infra/dagster``: the production instance loads, its parts accept their configuration, and the chart's values say
the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from dagster import DagsterInstance
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config, dagster_instance_config_schema
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_k8s.launcher import K8sRunLauncher

from accelbench_assets.launch.manifest_parts import DO_NOT_DISRUPT
from accelbench_assets.sqlkit.postgres import EmbeddedPostgres
from tests.infra.files import INFRA, objects, one, rendered

FOLDER = INFRA / "dagster"


def instance_file() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "dagster.yaml").read_text(encoding="utf-8"))


def values() -> dict[str, Any]:
    return yaml.safe_load(rendered(FOLDER / "values.yaml"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DAGSTER_PG_HOST": "db.example", "DAGSTER_PG_PORT": "5432", "DAGSTER_PG_USERNAME": "dagster",
        "DAGSTER_PG_PASSWORD": "x", "DAGSTER_PG_DB": "dagster", "ACCELBENCH_LOG_BUCKET": "logs",
        "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def test_the_file_fits_dagsters_schema(environment: None) -> None:
    answer = process_config(resolve_to_config_type(dagster_instance_config_schema()), instance_file())
    assert answer.success, answer.errors
    dagster_instance_config(str(FOLDER), "dagster.yaml")  # its own cross checks, such as of concurrency


@pytest.mark.parametrize(
    ("section", "part"), [("run_launcher", K8sRunLauncher), ("compute_logs", S3ComputeLogManager)]
)
def test_its_parts_take_their_configuration(environment: None, section: str, part: type) -> None:
    stated = instance_file()[section]
    assert (stated["class"], part.__module__.startswith(stated["module"])) == (part.__name__, True)
    answer = process_config(resolve_to_config_type(part.config_type()), stated["config"])
    assert answer.success, answer.errors


def test_run_pods_may_end_in_peace_and_are_not_moved(environment: None) -> None:
    config = instance_file()["run_launcher"]["config"]
    k8s = UserDefinedDagsterK8sConfig.from_dict(config["run_k8s_config"])
    assert k8s.pod_spec_config["termination_grace_period_seconds"] >= 120
    assert k8s.pod_template_spec_metadata["annotations"] == DO_NOT_DISRUPT
    monitoring = instance_file()["run_monitoring"]
    assert 7200 <= monitoring["max_runtime_seconds"] < k8s.job_spec_config["active_deadline_seconds"]
    assert monitoring["max_resume_run_attempts"] == 0
    assert instance_file()["run_retries"] == {"enabled": False}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("home")) as server:
        yield server


def test_the_instance_works_on_a_real_postgres(
    postgres: EmbeddedPostgres, environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = urlsplit(postgres.dsn)
    place = {"HOST": url.hostname, "PORT": url.port, "USERNAME": url.username, "PASSWORD": url.password}
    for name, value in {**place, "DB": url.path.strip("/")}.items():
        monkeypatch.setenv(f"DAGSTER_PG_{name}", str(value))
    document = instance_file()
    # The embedded server has no certificate.
    assert document["storage"]["postgres"]["postgres_db"].pop("params")["sslmode"] == "verify-full"
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(document))
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert "psycopg2" in instance.event_log_storage.postgres_url
        instance.add_dynamic_partitions("cells", ["a", "b"])
        assert instance.get_dynamic_partitions("cells") == ["a", "b"]
        assert instance.get_runs() == []
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_resume_run_attempts == 0
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.telemetry_enabled is False


# Keys of chart 1.13 that are used here, after the chart's schema sources (helm/dagster/schema of its repository).
TOP = {
    *(
        "global",
        "serviceAccount",
        "generatePostgresqlPasswordSecret",
        "postgresql",
        "telemetry",
        "rabbitmq",
        "redis",
    ),
    *(
        "flower",
        "ingress",
        "dagsterWebserver",
        "dagsterDaemon",
        "dagster-user-deployments",
        "runLauncher",
        "retention",
    ),
    *("computeLogManager", "concurrency", "additionalInstanceConfig"),
}
POD = {
    "resources",
    "volumes",
    "volumeMounts",
    "podSecurityContext",
    "securityContext",
    "envConfigMaps",
    "envSecrets",
}
KEYS: dict[str, set[str]] = {
    "": TOP,
    "global": {"postgresqlSecretName", "dagsterHome", "serviceAccountName"},
    "serviceAccount": {"create", "name"},
    "postgresql": {
        *("enabled", "postgresqlHost", "postgresqlUsername", "postgresqlDatabase", "postgresqlScheme"),
        *("postgresqlParams", "service"),
    },
    "dagsterWebserver": {"replicaCount", *POD},
    "dagsterDaemon": {"enabled", "runCoordinator", "runMonitoring", "runRetries", *POD},
    "dagsterDaemon.runCoordinator.config.queuedRunCoordinator": {"maxConcurrentRuns", "tagConcurrencyLimits"},
    "dagster-user-deployments": {"enabled", "enableSubchart", "deployments"},
    "runLauncher.config.k8sRunLauncher": {
        *("imagePullPolicy", "jobNamespace", "loadInclusterConfig", "envConfigMaps", "envSecrets", "volumes"),
        *("volumeMounts", "labels", "runK8sConfig"),
    },
    "runLauncher.config.k8sRunLauncher.runK8sConfig": {
        *("containerConfig", "podSpecConfig", "podTemplateSpecMetadata", "jobSpecConfig"),
    },
    "computeLogManager.config.s3ComputeLogManager": {
        *("bucket", "prefix", "region", "skipEmptyFiles", "uploadInterval"),
    },
    "concurrency": {"enabled", "pools", "runs"},
    "concurrency.pools": {"defaultLimit", "granularity"},
    "concurrency.runs": {"maxConcurrentRuns"},
}  # fmt: skip


@pytest.mark.parametrize("path", KEYS)
def test_the_chart_knows_every_key(path: str) -> None:
    place: Any = values()
    for step in path.split(".") if path else []:
        place = place[step]
    assert set(place) <= KEYS[path]


def test_chart_and_file_configure_the_same_instance() -> None:
    file, chart = instance_file(), values()
    monitoring, helm = file["run_monitoring"], chart["dagsterDaemon"]["runMonitoring"]
    assert {camel(k): v for k, v in monitoring.items()} == helm
    pools, runs = file["concurrency"]["pools"], file["concurrency"]["runs"]
    assert chart["concurrency"] == {
        "enabled": True,
        "pools": {camel(k): v for k, v in pools.items()},
        "runs": {camel(k): v for k, v in runs.items()},
    }
    # Given in both places, Dagster refuses the instance.
    queued = chart["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert not any(queued.values())
    launcher, helm_launcher = file["run_launcher"]["config"], chart["runLauncher"]["config"]["k8sRunLauncher"]
    assert launcher["job_namespace"] == helm_launcher["jobNamespace"]
    assert launcher["service_account_name"] == chart["global"]["serviceAccountName"]
    assert launcher["dagster_home"] == chart["global"]["dagsterHome"]
    assert launcher["env_config_maps"] == [e["name"] for e in helm_launcher["envConfigMaps"]]
    assert launcher["env_secrets"] == [e["name"] for e in helm_launcher["envSecrets"]]
    assert camelled(launcher["run_k8s_config"]) == camelled(helm_launcher["runK8sConfig"])
    assert chart["postgresql"]["postgresqlScheme"] == file["storage"]["postgres"]["postgres_db"]["scheme"]
    assert chart["postgresql"]["postgresqlParams"] == file["storage"]["postgres"]["postgres_db"]["params"]
    assert chart["telemetry"] == file["telemetry"] == {"enabled": False}
    for name in ("nux", "freshness"):
        assert chart["additionalInstanceConfig"][name] == file[name]


def test_what_the_chart_refers_to_is_there() -> None:
    chart = values()
    account = one("ServiceAccount", chart["global"]["serviceAccountName"])
    assert account["metadata"]["namespace"] == "accelbench"
    (code,) = chart["dagster-user-deployments"]["deployments"]
    assert code["envConfigMaps"] == [{"name": objects("ConfigMap")[0]["metadata"]["name"]}]
    assert code["dagsterApiGrpcArgs"] == ["-m", "accelbench_assets.definitions"]
    assert code["image"]["tag"] != "latest"
    for pod in (chart["dagsterWebserver"], chart["dagsterDaemon"], code):
        assert pod["podSecurityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_nothing_is_reachable_from_outside() -> None:
    assert values()["ingress"] == {"enabled": False}
    assert "service" not in values()["dagsterWebserver"]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def camelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {(k if "/" in k else camel(k)): camelled(v) for k, v in value.items()}
    return [camelled(v) for v in value] if isinstance(value, list) else value
