"""One look at each source: what is the newest thing there that could be followed.

Belongs here: joining the sources (a version counts once its image is there), what a look says of them.
Does not belong here: a source's protocol (``pypi``, ``registry``, ``neuron``, ``hub``), what follows (``follow``).

A look raises ``ReleaseError`` when its source is down as a whole; what concerns one version or one model is a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from accelbench_assets.releases import hub, neuron
from accelbench_assets.releases.follow import Found
from accelbench_assets.releases.pypi import stable_releases
from accelbench_assets.releases.registry import VLLM_IMAGE, Registry, image_name, vllm_tag
from accelbench_assets.releases.subjects import NEURON, VLLM, ModelRevision
from accelbench_assets.releases.web import ReleaseError

VERSIONS_ASKED = 5
"""So many versions, newest first, are looked for at the registry."""
HUB_THREADS = 8


class Look(NamedTuple):
    """What was found, and what is worth saying beside it."""

    found: tuple[Found, ...]
    notes: tuple[str, ...]


def vllm(pypi_url: str, registry_url: str, known: str | None) -> Look:
    """The newest stable vLLM that has an image, if newer than *known*."""
    versions = [v for v in stable_releases(pypi_url) if known is None or VLLM.newer(v, known)]
    registry, notes = Registry(registry_url), list[str]()
    for version in versions[: -VERSIONS_ASKED - 1 : -1]:
        digest = registry.digest(VLLM_IMAGE, vllm_tag(version))
        if digest is not None:
            ref = image_name(registry_url, VLLM_IMAGE, vllm_tag(version), digest)
            return Look((Found(VLLM.name, version, digest, ref),), tuple(notes))
        notes.append(
            f"vLLM {version} is released; its image {VLLM_IMAGE}:{vllm_tag(version)} is not there yet."
        )
    return Look((), tuple(notes))


def neuron_sdk(neuron_url: str, known: str | None) -> Look:
    """The newest vLLM for Neuron, if newer than *known*."""
    newest = neuron.newest(neuron_url, after=known)
    if newest is None:
        return Look((), ())
    ref = image_name(neuron_url, neuron.NEURON_IMAGE, newest.tag, newest.digest)
    return Look((Found(NEURON.name, newest.engine_version, newest.digest, ref),), ())


def model_revisions(hub_url: str, models: Mapping[str, str]) -> Look:
    """The current commit of every model (slug to id on the hub). A model the hub does not show is a note."""

    def ask(model_id: str) -> str | ReleaseError:
        try:
            return hub.current_commit(hub_url, model_id)
        except ReleaseError as error:
            return error

    with ThreadPoolExecutor(max_workers=HUB_THREADS) as threads:
        answers = dict(zip(models, threads.map(ask, models.values()), strict=True))
    for answer in answers.values():
        if isinstance(answer, ReleaseError) and not isinstance(answer, hub.UnknownModelError):
            raise answer
    found = [
        Found(ModelRevision(slug).name, commit, commit, f"{models[slug]}@{commit}")
        for slug, commit in answers.items()
        if isinstance(commit, str)
    ]
    return Look(tuple(found), tuple(a.message for a in answers.values() if isinstance(a, ReleaseError)))
