"""Finding the cluster: kubeconfig or service account, through the official client's loaders.

Belongs here: which of the two is used, credential commands bounded in time, what to do when it fails.
Does not belong here: calls (``calls``, ``client``).

Nothing of a kubeconfig is ever shown but paths and names of contexts: the loader's own messages repeat whole entries,
tokens included.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube.errors import shown
from accelbench_assets.settings_groups import KubeSettings

CREDENTIALS_S = 60.0
"""Longest wait for a credential command (``aws eks get-token``), which the official loader does not bound."""

_SAFE = re.compile(r"Expected (key [\w.-]+|object with name [\w.:/@-]+) in ")
_MISSING_COMMAND = re.compile(r"No such file or directory: '([^']+)'")


@dataclass(slots=True)
class Access:
    """An ``ApiClient`` of the official library, whether it is this pod's own cluster, and where that came from."""

    api: Any
    in_cluster: bool
    source: str
    complaints: list[str] = field(default_factory=list)
    """What the credential command said when it failed last; empty after a success."""


def open_access(kube: KubeSettings, agent: str) -> Access:
    """The client of the cluster of *kube*; nothing is asked of it yet. *agent* becomes its User-Agent.

    With ``context`` or KUBECONFIG the kubeconfig; else, inside a cluster, its service account; else
    ``~/.kube/config``. Raises ``LaunchError``: ``missing_part`` (client not installed), ``no_cluster``.
    """
    try:
        from kubernetes import client
    except ImportError:
        raise LaunchError(
            "The Kubernetes client is not installed.",
            code="missing_part",
            hint="Install it: `pip install 'accelbench[k8s]'`.",
        ) from None
    configuration = client.Configuration()
    configuration.retries = False  # calls retries, and knows what may be repeated
    configuration.connection_pool_maxsize = 32
    complaints: list[str] = []
    given = os.environ.get("KUBECONFIG")
    inside = not kube.context and not given and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    if inside:
        source = "the pod's service account"
        _load_service_account(configuration)
    else:
        source = given or str(Path.home() / ".kube" / "config")
        _load_kubeconfig(configuration, source, kube.context, complaints)
    if (urlsplit(configuration.host).hostname or "") in ("127.0.0.1", "localhost", "::1"):
        configuration.proxy = None
    api = client.ApiClient(configuration)
    api.user_agent = agent
    return Access(api, inside, source, complaints)


def _load_service_account(configuration: Any) -> None:
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise LaunchError(
            f"This pod's service account cannot be used: {shown(str(error))}",
            code="no_cluster",
            hint="Give the pod a service account with a mounted token, or set KUBECONFIG.",
        ) from None


def _load_kubeconfig(configuration: Any, source: str, context: str | None, complaints: list[str]) -> None:
    from kubernetes import config

    if not any(Path(part).expanduser().is_file() for part in source.split(os.pathsep) if part):
        raise LaunchError(
            f"No Kubernetes cluster is configured: {source} does not exist.",
            code="no_cluster",
            hint="Run `aws eks update-kubeconfig --name CLUSTER --region REGION`, or set KUBECONFIG.",
        )

    def load() -> None:
        config.load_kube_config(
            config_file=source, context=context, client_configuration=configuration, persist_config=False
        )

    try:
        _bounded(lambda: _listening(load, complaints))
    except LaunchError:
        raise
    except Exception as error:  # whatever a damaged file makes the loader raise
        raise LaunchError(
            f"The kubeconfig {source} cannot be used: {_what_is_wrong(error)}.",
            code="no_cluster",
            hint="`kubectl config get-contexts` lists what it holds; the setting kube.context chooses one.",
        ) from None
    if complaints and not configuration.api_key and not configuration.cert_file:
        raise LaunchError(
            f"The credential command of the kubeconfig {source} failed: {complaints[-1]}",
            code="no_cluster",
            hint=_credential_hint(complaints[-1]),
        )
    if (hook := configuration.refresh_api_key_hook) is not None:
        configuration.refresh_api_key_hook = _guarded(hook, complaints)


def _guarded(hook: Callable[[Any], None], complaints: list[str]) -> Callable[[Any], None]:
    """The loader's renewal of credentials, one at a time, bounded, with its complaints kept instead of logged."""
    lock = threading.Lock()

    def refresh(configuration: Any) -> None:
        with lock:
            try:
                _bounded(lambda: _listening(lambda: hook(configuration), complaints))
            finally:
                configuration.refresh_api_key_hook = refresh  # the loader's own puts itself back each time

    return refresh


def _bounded(work: Callable[[], None], seconds: float = CREDENTIALS_S) -> None:
    """Run *work* in a thread of its own and wait for it; ``LaunchError`` (``no_cluster``) after *seconds*."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="kube-credentials", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise LaunchError(
            f"The kubeconfig's credential command gave no answer within {seconds:.0f} s.",
            code="no_cluster",
            hint="Run it by hand: it may be asking for something.",
        )
    if failure:
        raise failure[0]


class _Ear(logging.Filter):
    """Takes the loader's own records off the root logger, where it reports what it does not raise."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.module != "kube_config":
            return True
        self.heard.append(record.getMessage())
        return False


def _listening(work: Callable[[], None], complaints: list[str]) -> None:
    with _ear() as ear:
        work()
    complaints[:] = [_command_text(text) for text in ear.heard]


@contextlib.contextmanager
def _ear() -> Iterator[_Ear]:
    root, ear = logging.getLogger(), _Ear()
    silent = logging.NullHandler()  # without any handler, logging would set one up for good
    root.addFilter(ear)
    root.addHandler(silent)
    try:
        yield ear
    finally:
        root.removeFilter(ear)
        root.removeHandler(silent)


def _command_text(text: str) -> str:
    if missing := _MISSING_COMMAND.search(text):
        return f"the command {missing[1]!r} is not installed here."
    if "decode" in text or "malformed" in text:
        return "its answer is no credential."
    return shown(text).rstrip(".") + "."


def _credential_hint(complaint: str) -> str:
    if "'aws'" in complaint:
        return "Install the AWS CLI, version 2: the kubeconfig takes its token from `aws eks get-token`."
    if "not installed" in complaint:
        return "Install it, or choose a context with other credentials (kube.context)."
    return "Run it by hand; for EKS: `aws sts get-caller-identity` shows who you are."


def _what_is_wrong(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1} is not YAML"
    if safe := _SAFE.search(f"{error} "):
        return f"{safe[1]} is missing"
    return f"it is incomplete or damaged ({type(error).__name__})"
