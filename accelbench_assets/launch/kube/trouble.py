"""What can be wrong with a run's pods, in words for people.

Belongs here: the value object, what to do about each code, and how a container's end is worded.
Does not belong here: finding out (``diagnose``, ``loss``).
"""

from __future__ import annotations

from dataclasses import dataclass

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube.look import Object
from accelbench_assets.scrub import scrub

SHOWN_LINES = 3
_HINTS = {
    "no_capacity": "Try another zone, region or capacity type, or run it later; NodePools bound what can be had.",
    "unschedulable": "Compare the pod's selectors, tolerations and requests with the nodes' labels and taints, the "
    "NodePools' requirements and limits, the quotas, and what the device plugin offers.",
    "quota": "Raise the quota named here, or wait until other runs have ended.",
    "image_pull": "Check the image name in setting kube.engine_images or kube.loadgen_image, and the node's access.",
    "oom": "The node's memory (not the accelerator's) ran out; choose a bigger size or smaller caches.",
    "does_not_fit": "Choose more or bigger accelerators, a shorter max_model_len, or a quantized model.",
    "gated_model": "Accept the model's terms on the hub and put a token with access into the Secret of kube.hf_secret.",
    "model_not_found": "Check the model's id and revision on the hub; a private one needs a token.",
    "bad_config": "Correct the deployment's arguments or what is missing in the namespace, then run it again.",
    "not_ready": "Its log is kept with the run; a bigger model may need a longer kube.start_s.",
    "disk_full": "Give the node a bigger disk, or keep weights in kube.model_cache.",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong: failure code, one sentence, what to do, and whether waiting or a new pod can help."""

    code: str
    text: str
    certain: bool = True
    retryable: bool = False
    hint: str | None = None
    pod: str = ""

    def error(self, log: str = "") -> LaunchError:
        """As the run's failure, with the log's last line if there is one."""
        lines = [line.strip() for line in scrub(log).splitlines() if line.strip()]
        said = f"Its last lines: {' | '.join(lines[-SHOWN_LINES:])}" if lines else None
        hint = " ".join(filter(None, (self.hint or _HINTS.get(self.code), said)))
        return LaunchError(scrub(self.text), code=self.code, hint=hint or None)


def how_it_ended(ended: Object) -> str:
    """Exit code or signal, with the text the container left."""
    code, reason = ended.get("exitCode"), ended.get("reason")
    if code is None:
        return "it does not say how"
    how = f"killed by signal {int(code) - 128}" if 128 < int(code) < 160 else f"exit code {code}"
    named = f", {reason}" if reason and reason not in ("Error", "Completed") else ""
    lines = [line.strip() for line in str(ended.get("message") or "").splitlines() if line.strip()]
    return how + named + (f": {lines[-1][:200]}" if lines else "")  # the message may be the log's last lines
