"""Pulling a container's image.

Belongs here: pull policies, waiting states, events, the faults of pulls. Does not belong here: the image map
(``images``), what runs afterwards (``container``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.launch.kube import images, pod_faults

if TYPE_CHECKING:
    from tests.launch.kube.container import Container

FAILS_AFTER_S = 1.1
TRY_S, PAUSE_S = 12.0, 14.0  # how long ErrImagePull and ImagePullBackOff are shown, in turn
LEAST_S = 0.05


async def pull(container: Container) -> None:
    """Returns when the image is there; for some mistakes never."""
    image, pod = container.image, container.pod
    if not images.is_well_formed(image):
        why = f'couldn\'t parse image name "{image}": invalid reference format'
        text = f'Failed to apply default image tag "{image}": {why}'
        container.tell("Warning", "InspectFailed", text)
        container.wait("InvalidImageName", text)
        await asyncio.Event().wait()
    policy, tries = container.spec["imagePullPolicy"], 0
    while True:
        known = pod.images.find(image)
        tries += 1
        occasion = f"{pod.uid}/{container.name}/{container.attempt}/pull/{tries}"
        fault = pod.fault(occasion, *pod_faults.PULLS)  # also for an image that is there: it is forgotten
        if known is not None and fault is None and policy != "Always" and image in pod.pulled:
            text = f'Container image "{image}" already present on machine and can be accessed by the pod'
            container.tell("Normal", "Pulled", text)
            return
        if policy == "Never":
            text = f'Container image "{image}" is not present with pull policy of Never'
            container.tell("Warning", "ErrImageNeverPull", text)
            container.wait("ErrImageNeverPull", text)
            await asyncio.sleep(pod.pace(TRY_S, LEAST_S))
            continue
        container.tell("Normal", "Pulling", f'Pulling image "{image}"')
        if known is not None and fault is None:
            await _fetch(container, 0.0 if image in pod.pulled else known.pull_s)
            return
        await _fail(container, images.pull_failure(image, fault.do if fault else "image_pull_not_found"))


async def _fetch(container: Container, seconds: float) -> None:
    await asyncio.sleep(seconds)
    container.pod.pulled.add(container.image)
    shown = f"{seconds:g}s" if seconds >= 1 else f"{max(1, round(seconds * 1000))}ms"
    took = f"in {shown} ({shown} including waiting)"
    text = f'Successfully pulled image "{container.image}" {took}. Image size: {images.BYTES} bytes.'
    container.tell("Normal", "Pulled", text)


async def _fail(container: Container, text: str) -> None:
    """Both states of a failed pull, and the pause they fill."""
    pace, image = container.pod.pace, container.image
    await asyncio.sleep(pace(FAILS_AFTER_S))
    container.tell("Warning", "Failed", f'Failed to pull image "{image}": {text}')
    container.tell("Warning", "Failed", "Error: ErrImagePull")
    container.wait("ErrImagePull", text)
    await asyncio.sleep(pace(TRY_S, LEAST_S))
    back_off = f'Back-off pulling image "{image}"'
    container.tell("Normal", "BackOff", back_off)
    container.tell("Warning", "Failed", "Error: ImagePullBackOff")
    container.wait("ImagePullBackOff", f"{back_off}: ErrImagePull: {text}")
    await asyncio.sleep(pace(PAUSE_S, LEAST_S))
