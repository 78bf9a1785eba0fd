"""Who this machine is: a stable fingerprint, its instance name, and its processor, cores and memory.

Belongs here: facts read from the machine itself, and the instance name of a server somebody else runs.
Does not belong here: facts about EC2 instance types (``instances``). Nothing here holds a host name or an
address.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelbench_assets.scrub import url_without_credentials

_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _machine_id() -> str:
    for name in _ID_FILES:
        try:
            if text := Path(name).read_text(encoding="ascii").strip():
                return text
        except (OSError, ValueError):
            continue
    return platform.node()


def cpu_model() -> str:
    """The processor's name as Linux says it, else the architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Processor", "cpu model") and value.strip():
                    return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def host_fingerprint() -> str:
    """8 hex, the same on every call and start of this machine; another processor or core count is another
    machine.
    """
    return _short_hash("|".join((_machine_id(), cpu_model(), platform.machine(), str(os.cpu_count()))))


def local_instance() -> str:
    """The instance name of this machine in cell keys: ``local-<8 hex>``."""
    return f"local-{host_fingerprint()}"


def server_root(url: str) -> str:
    """*url* of an OpenAI-compatible server without credentials, trailing slash and ``/v1``; host in lower
    case.
    """
    clean = url_without_credentials(url).removesuffix("/v1").rstrip("/")
    parts = urlsplit(clean)
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()


def endpoint_instance(url: str) -> str:
    """The instance name of a foreign server: ``endpoint-<8 hex of its URL without credentials>``."""
    return f"endpoint-{_short_hash(server_root(url))}"


def describe_host() -> dict[str, Any]:
    """``cpu_model``, ``arch``, ``logical_cores`` (and how many this process may use), ``memory_gib``, ``os``,
    ``python``.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host_fingerprint": host_fingerprint(),
        "cpu_model": cpu_model(),
        "arch": platform.machine(),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gib": round(memory / 2**30, 1),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def host_label() -> str:
    """One line for tables: ``Intel Xeon Platinum 8375C, 2 cores, 24 GiB``."""
    host = describe_host()
    return f"{host['cpu_model']}, {host['logical_cores']} cores, {host['memory_gib']:.0f} GiB"
