"""The cluster is found and its credentials are had, or what is wrong is said without any of their content."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import connect
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.tiny_api import Fault, TinyApi


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def kubeconfig(path: Path, server: str, user: dict[str, Any]) -> Path:
    context = {"name": "test", "context": {"cluster": "c", "user": "u"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [context],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_kubeconfig_is_used(
    api: TinyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:9")
    path = kubeconfig(tmp_path / "config", api.url, {"token": "canary-token-0123"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}{os.pathsep}{path}")
    cluster = Cluster.connect(KubeSettings(namespace="ns"), agent="accelbench-test")
    assert cluster.namespace_uid() == "uid-of-ns"
    headers = api.requests[-1][3]
    assert headers["authorization"] == "Bearer canary-token-0123"
    assert headers["user-agent"] == "accelbench-test"


def test_what_is_wrong_with_a_kubeconfig_is_said_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:9", {"token": "canary-token-0123"})
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(LaunchError, match="object with name other is missing") as caught:
        Cluster.connect(KubeSettings(context="other"))
    assert caught.value.code == "no_cluster"
    assert "canary" not in str(caught.value)
    for content in ("users: [}\ntoken: canary-token-0123", "canary-token-0123", "{}", ""):
        path.write_text(content)
        with pytest.raises(LaunchError) as caught:
            Cluster.connect(KubeSettings())
        assert caught.value.code == "no_cluster"
        assert "canary" not in str(caught.value)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(LaunchError, match=r"nowhere does not exist.*update-kubeconfig"):
        Cluster.connect(KubeSettings())
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(LaunchError, match=r"\.kube/config does not exist"):
        Cluster.connect(KubeSettings())


def test_a_pod_without_a_token_is_told_so(monkeypatch: pytest.MonkeyPatch, no_cluster: None) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(LaunchError, match="service account cannot be used") as caught:
        Cluster.connect(KubeSettings())
    assert caught.value.code == "no_cluster"


def plugin(path: Path, script: str) -> dict[str, Any]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path)}}


def test_credentials_of_a_command(
    api: TinyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    told = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-the-command", "expirationTimestamp": "2020-01-01T00:00:00Z"},
    }
    (tmp_path / "token").write_text(json.dumps(told))
    user = plugin(tmp_path / "get-token", f"cat {tmp_path / 'token'}")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", api.url, user)))
    cluster = Cluster.connect(KubeSettings(namespace="ns"))
    assert cluster.source == str(tmp_path / "config")
    (tmp_path / "token").write_text(json.dumps(told).replace("from-the-command", "renewed"))
    assert cluster.namespace_uid() == "uid-of-ns"
    assert api.requests[-1][3]["authorization"] == "Bearer renewed"
    plugin(tmp_path / "get-token", "echo 'the session has ended' >&2; exit 1")
    api.faults = [Fault("GET", "/pods/", "status", code=401, times=9)]
    with pytest.raises(KubeError) as caught:
        cluster.get("Pod", "p", retry_s=0)
    assert caught.value.code == "api_denied"
    assert "the session has ended" in (caught.value.hint or "")


def test_a_credential_command_that_fails_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connect, "CREDENTIALS_S", 5.0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    handlers = list(logging.getLogger().handlers)

    def refused(user: dict[str, Any]) -> LaunchError:
        kubeconfig(tmp_path / "config", "http://127.0.0.1:9", user)
        with pytest.raises(LaunchError) as caught:
            Cluster.connect(KubeSettings())
        assert caught.value.code == "no_cluster"
        return caught.value

    missing = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws", "args": ["eks"]}}
    error = refused(missing)
    assert "'aws' is not installed" in error.message
    assert "Install the AWS CLI" in (error.hint or "")
    error = refused(plugin(tmp_path / "fails", "echo 'no session, password=hunter2hunter2' >&2; exit 255"))
    assert "no session" in error.message
    assert "hunter2" not in str(error)
    assert "no credential" in refused(plugin(tmp_path / "odd", "echo canary-token")).message
    assert "canary" not in caplog.text + "".join(record.getMessage() for record in caplog.records)
    assert logging.getLogger().handlers == handlers


def test_a_credential_command_that_hangs_is_given_up() -> None:
    hang = threading.Event()
    with pytest.raises(LaunchError, match="no answer within 0 s") as caught:
        connect._bounded(lambda: bool(hang.wait(30)) or None, 0.2)
    hang.set()
    assert caught.value.code == "no_cluster"
