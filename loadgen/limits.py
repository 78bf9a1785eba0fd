"""What the container this process runs in allows it: its share of the processors, and how long it was held back.

Belongs here: reading the cgroup's files, version 2 and 1. Does not belong here: figures about the process itself
(``monitor``), the verdict on them, which the reader of ``shard.json`` gives.

A container sees its own cgroup at the root of the mount. A process that used up its quota waits for the rest of the
period (usually 100 ms): that shows as a late loop, and here by name.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cpu_limit(root: Path = ROOT) -> float | None:
    """Cores that the quota amounts to; ``None`` where there is none or it cannot be read."""
    two = _words(root / "cpu.max")
    quota, period = two[:2] if len(two) >= 2 else ("", "")
    if not two:
        quota = " ".join(_words(root / "cpu" / "cpu.cfs_quota_us"))
        period = " ".join(_words(root / "cpu" / "cpu.cfs_period_us"))
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", or no such file
    return cores if cores > 0 else None


def throttled_s(root: Path = ROOT) -> float | None:
    """Seconds the container's processes were held back since it began; ``None`` where nobody counts them."""
    for file, name, unit in (
        (root / "cpu.stat", "throttled_usec", 1e-6),
        (root / "cpu" / "cpu.stat", "throttled_time", 1e-9),
    ):
        words = _words(file)
        if name in words[::2]:
            return int(words[2 * words[::2].index(name) + 1]) * unit
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
