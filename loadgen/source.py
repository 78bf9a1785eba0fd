"""The requests of a step, by index: prompts, encoded bodies and due times, drawn and hashed before its
clock starts.

Belongs here: tying schedule and prompts to a plan's step. Does not belong here: the order of events at run
time (``steps``).

An open loop's due times are all drawn before. Bodies are built before up to 64 MiB a step and by the same
index rule after that, which is a few slices. The hashes cover every step's load and due times, and the
first 256 prompts of each; a prompt depends on its index and the seed alone, so equal hashes mean equal
requests.
"""

from __future__ import annotations

from array import array

from loadgen.exchange import Exchange, Request
from loadgen.plan import Plan, Step
from loadgen.prompts import BodyTemplate, PromptSource, body_fields
from loadgen.schedule import Digest, arrivals, child_seed
from loadgen.workloads import Workload

HASHED_PROMPTS = 256
_BUILT_BYTES, _BUILT_REQUESTS = 64 * 2**20, 2_000


class StepSource:
    """Exchanges of one step. ``due_ns`` counts from the step's start; empty in a closed loop."""

    def __init__(self, plan: Plan, workload: Workload, step: Step, n_words: int) -> None:
        self._plan, self._workload, self.step = plan, workload, step
        self.prompts = PromptSource(child_seed(plan.seed, "content", plan.shard, step.step_index), n_words)
        fields = body_fields(
            plan.api, plan.model, max_tokens=workload.osl, ignore_eos=workload.ignore_eos, stream=plan.stream
        )
        self._template = BodyTemplate.of(fields)
        self._built: list[Request] = []
        self.due_ns: array[int] = array("q")
        if step.load_kind == "open":
            duration = step.warmup_s + step.window_s + step.tail_s
            seed = child_seed(plan.seed, "arrival", plan.shard, step.step_index)
            self.due_ns = arrivals(step.arrival, step.load_value, duration, seed)

    def build(self) -> None:
        """Encode the first requests, before the clock."""
        size = len(self._request(0).body)
        count = min(_BUILT_REQUESTS, max(1, _BUILT_BYTES // size))
        if self.step.load_kind == "open":
            count = min(len(self.due_ns), max(1, _BUILT_BYTES // size))
        self._built = [self._request(seq) for seq in range(count)]

    def exchange(self, seq: int, scheduled_ns: int) -> Exchange:
        """Request *seq*, due at *scheduled_ns* (0 in a closed loop), on its replica in turn."""
        request = self._built[seq] if seq < len(self._built) else self._request(seq)
        replica = self._plan.replicas[seq % len(self._plan.replicas)]
        return Exchange(request, replica, self._plan.stream, scheduled_ns)

    def _request(self, seq: int) -> Request:
        prompt = self.prompts.text(seq)
        ident = f"{self._plan.run_id}-{self._plan.shard}-{self.step.step_index}-{seq}"
        wanted = self._workload.osl if self._workload.ignore_eos else None
        return Request(seq, ident, self._template.fill(prompt), prompt, self._workload.isl, wanted)


def hashes(sources: list[StepSource]) -> tuple[str, str]:
    """SHA-256 of the schedule and of the prompts of all steps."""
    schedule, prompts = Digest(), Digest()
    for source in sources:
        step = source.step
        times = (step.warmup_s, step.window_s, step.tail_s)
        schedule.add(f"{step.step_index} {step.load_kind} {step.load_value!r} {step.arrival} {times!r}")
        schedule.add(b"".join(due.to_bytes(8, "big") for due in source.due_ns))
        schedule.add(str(source.prompts.n_words))
        for index in range(HASHED_PROMPTS):
            prompts.add(source.prompts.text(index))
    return schedule.hex(), prompts.hex()
