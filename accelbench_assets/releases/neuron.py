"""The newest vLLM for Neuron, read from the tags of its public image.

Belongs here: the tag scheme, the version a cell calls it by, which accelerators a new SDK still serves.
Does not belong here: asking a registry (``registry``), arguments of the engine (``engines``).

Tags look like ``0.24.0.1.1.0-neuronx-py313-sdk2.32.0-ubuntu24.04``: vLLM's version (three parts, and three more of the
plugin on newer ones), Python, SDK, base system. A cell says ``0.24.0-neuron2.32``. Two lines are published side by
side: vLLM 0.16 on NxD Inference, maintained only, and newer vLLM with the plugin; the newer vLLM decides, then the SDK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from accelbench_assets.releases.registry import Registry
from accelbench_assets.releases.web import ReleaseError

NEURON_IMAGE = "neuron/pytorch-inference-vllm-neuronx"
LAST_SDK = {"inf2": "2.28", "trn1": "2.28", "trn1n": "2.28"}
"""Families whose kernels a later SDK's vLLM no longer has (release notes of Neuron 2.29)."""

_TAG = re.compile(r"(\d+(?:\.\d+){1,5})-neuronx-py\d+-sdk(\d+(?:\.\d+){1,2})-ubuntu\d+\.\d+")
_ENGINE = re.compile(r"(\d+(?:\.\d+)*)-neuron(\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True)
class NeuronRelease:
    """A published image: the version a cell calls it by, its tag and digest."""

    engine_version: str
    tag: str
    digest: str


def order(engine_version: str) -> tuple[Version, Version] | None:
    """What orders the engine versions of Neuron cells: vLLM, then SDK; ``None`` for any other form of version."""
    found = _ENGINE.fullmatch(engine_version)
    try:
        return None if found is None else (Version(found[1]), Version(found[2]))
    except InvalidVersion:  # pragma: no cover - digits and dots always parse
        return None


def engine_version(tag: str) -> str | None:
    """What a cell calls the image of *tag*; ``None`` for a tag of another form."""
    found = _TAG.fullmatch(tag)
    if found is None:
        return None
    vllm, sdk = found[1].split("."), found[2].split(".")
    if sdk[2:] == ["0"]:
        sdk = sdk[:2]
    return f"{'.'.join(vllm[:3])}-neuron{'.'.join(sdk)}"


def newest(neuron_url: str, *, after: str | None = None) -> NeuronRelease | None:
    """The newest release at the registry, or ``None`` if it is not newer than *after* (an engine version).

    Raises ``ReleaseError``, also when no tag has the known form: then the scheme has changed.
    """
    registry = Registry(neuron_url, "watch.neuron_url")
    known: dict[str, str] = {}
    for tag in sorted(registry.tags(NEURON_IMAGE), key=_plain_order):
        # Of several images of one version the last by name: the newest plugin, Python and system.
        if name := engine_version(tag):
            known[name] = tag
    if not known:
        raise ReleaseError(
            f"No tag of {NEURON_IMAGE} at {neuron_url} has the form VLLM-neuronx-pyN-sdkN-ubuntuN."
        )
    best = max(known, key=lambda name: order(name) or (Version("0"), Version("0")))
    if after is not None and not is_newer(best, after):
        return None
    digest = registry.digest(NEURON_IMAGE, known[best])
    if digest is None:
        raise ReleaseError(f"The tag {known[best]} of {NEURON_IMAGE} is listed and cannot be found.")
    return NeuronRelease(best, known[best], digest)


def is_newer(version: str, than: str) -> bool:
    """Whether one engine version of Neuron is newer; anything is newer than a version of another form."""
    this, other = order(version), order(than)
    return this is not None and (other is None or this > other)


def why_not_on(family: str, engine_version: str) -> str | None:
    """Why vLLM of this version does not run on *family*; ``None`` if it does."""
    last, found = LAST_SDK.get(family), order(engine_version)
    if last is None or found is None or found[1].release[:2] <= Version(last).release[:2]:
        return None
    return f"{family} is served by vLLM up to Neuron SDK {last}"


def _plain_order(tag: str) -> tuple[tuple[int, ...], str]:
    return tuple(int(number) for number in re.findall(r"\d+", tag)), tag
