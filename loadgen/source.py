"""The requests of a step, by index: due times, prompts, lengths and encoded bodies, drawn and hashed before
its clock starts.

Belongs here: tying schedule, lengths and content to a plan's step. Does not belong here: the order of events
at run time (``steps``), each of the parts.

An open loop's due times are all drawn before. Bodies are built before up to 64 MiB a step and by the same
index rule after that, which is a few slices. The hashes cover every step's load, due times and length laws,
the first 1,024 lengths and the first 256 prompts of each; a request depends on its index and the seed alone,
so equal hashes mean equal requests. Shards divide one schedule: arrival (or request) k belongs to shard
``k % shards``.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any

from loadgen.bodies import Bodies, encoded
from loadgen.contents import Prompt, content, zipf
from loadgen.datasets import open_requests, open_trace
from loadgen.exchange import Exchange, Request
from loadgen.lengths import uniforms
from loadgen.plan import Plan, Step
from loadgen.schedule import Digest, arrivals, child_seed, replay
from loadgen.sessions import Session, Talk
from loadgen.sizing import Sizing
from loadgen.workloads import Workload, check_runnable
from loadgen.workloads.document import canonical

if TYPE_CHECKING:
    from loadgen.calibrate import CalibrationResult
    from loadgen.datasets.requests import RequestFile
    from loadgen.datasets.traces import Trace
    from loadgen.decode import Answer

HASHED_PROMPTS, HASHED_LENGTHS = 256, 1024
_HASHED_BYTES = 8 * 2**20
_CLOSED_SESSIONS = 1_000_000  # more than a closed loop begins: no two turns share a sequence number
_AHEAD_BYTES = 16_384  # bodies up to this length are encoded ahead of their turn
_BUILT_BYTES, _BUILT_REQUESTS, _BUILT_ARRIVALS = 64 * 2**20, 2_000, 10_000


class StepSource:
    """Exchanges of one step for one shard. ``due_ns`` counts from the step's start; empty in a closed loop.

    ``total`` ends a closed loop's window after so many requests of this shard; ``sessions`` says that
    :meth:`follow_up` may return more. *calibrated* is a calibration's result, or a prompt length in words.
    Raises ``PlanError`` when the user's file is missing or wrong.
    """

    def __init__(
        self, plan: Plan, workload: Workload, step: Step, calibrated: CalibrationResult | int
    ) -> None:
        check_runnable(workload, dataset=plan.dataset, models=len(plan.models or (plan.model,)))
        self._plan, self._workload, self.step = plan, workload, step
        life_ms = workload.cancel.expected_ms if workload.cancel is not None else 0.0
        if isinstance(calibrated, int):
            sizing = Sizing(extra_words=calibrated - workload.isl)
        else:
            sizing, life_ms = calibrated.sizing, calibrated.expected_life_ms or life_ms
        self._life_ns = life_ms * 1e6
        index = step.step_index
        self._prefix = f"{plan.run_id}-{plan.shard}-{index}-"
        self._seeds = {
            name: child_seed(plan.seed, name, index)
            for name in ("content", "arrival", "lengths", "models", "cancel")
        }
        self._rows, self._trace = _data(plan, workload)
        laws = workload.lengths
        fixed = self._trace is None and laws.isl.fixed and laws.osl.fixed
        self._fixed = laws.pair(0, 0) if fixed else None
        self._bodies = Bodies(plan, workload)
        self._models = plan.models or (plan.model,)
        self._model = zipf(len(self._models), workload.models.zipf if workload.models is not None else 0.0)
        self.whole_due_ns, self._places = self._arrivals()
        self.due_ns: array[int] = self.whole_due_ns[plan.shard :: plan.shards]
        total = workload.total(step)
        self.total = None if total is None else len(range(plan.shard, total, plan.shards))
        self.sessions = workload.sessions is not None
        self._live: dict[str, Session] = {}
        self._built: list[Request] = []
        self._ahead: dict[int, Request] = {}
        self._prepared = 0
        seed = self._seeds["content"]
        if workload.sessions is not None:
            self._talk = Talk(workload, seed, sizing, self._rows, workload.sessions)
        else:
            self._content = content(workload, seed, sizing, rows=self._rows, trace=self._trace)

    def _arrivals(self) -> tuple[array[int], array[int] | None]:
        """Due times of the whole schedule, and of a trace the place of each."""
        step = self.step
        if step.load_kind != "open":
            return array("q"), None
        duration = step.warmup_limit_s + step.window_s + step.tail_s
        seed = self._seeds["arrival"]
        if step.arrival != "trace":
            return arrivals(step.arrival, step.load_value, duration, seed, lead_s=step.warmup_s), None
        assert self._trace is not None
        assert self._workload.trace is not None
        thin = seed if self._workload.trace.scaling == "thin" else None
        return replay(self._trace.offsets_ns, step.load_value, duration, step.warmup_s, thin=thin)

    def build(self) -> None:
        """Encode the first requests, before the clock."""
        count = _BUILT_REQUESTS
        if self.step.load_kind == "open":
            count = min(len(self.due_ns), _BUILT_ARRIVALS)
        size = 0
        for index in range(len(self._built), count):
            request = self.request(index)
            self._built.append(request)
            size += len(request.body) + len(request.prompt)
            if size > _BUILT_BYTES:
                break

    def exchange(self, index: int, scheduled_ns: int) -> Exchange:
        """This shard's *index*-th request, due at *scheduled_ns* (0 in a closed loop), on its replica in
        turn."""
        if index < len(self._built):
            request = self._built[index]
        else:
            request = self._ahead.pop(index) if index in self._ahead else self.request(index)
        return self._on_replica(request, index, scheduled_ns)

    @property
    def fresh_connections(self) -> bool:
        """Whether every request opens a connection."""
        return self._workload.fresh_connections or self._plan.fresh_connections

    def forget(self) -> None:
        """Let go of encoded requests, once the step is over: a ladder of long prompts would keep them all."""
        self._built.clear()
        self._ahead.clear()

    def prepare(self, begin: int, end: int, most: int) -> bool:
        """Encode up to *most* of the requests *begin* … *end* - 1 that are not yet, for a loop with nothing else to do;
        whether there were any. Long bodies are left to the moment they are sent: memory stays bounded."""
        if self.sessions or self._lengthy:
            return False
        first = max(begin, len(self._built), self._prepared)
        for index in range(first, min(end, first + most)):
            self._ahead[index] = self.request(index)
        self._prepared = max(self._prepared, min(end, first + most))
        return first < end

    @property
    def _lengthy(self) -> bool:
        return bool(self._built) and len(self._built[0].body) > _AHEAD_BYTES

    def _on_replica(self, request: Request, turn: int, scheduled_ns: int) -> Exchange:
        plan = self._plan
        replica = plan.replicas[(turn + plan.shard) % len(plan.replicas)]
        return Exchange(request, replica, plan.stream, scheduled_ns)

    def request(self, index: int) -> Request:
        """This shard's *index*-th request; of sessions the first turn of its *index*-th."""
        seq = index * self._plan.shards + self._plan.shard
        if self.sessions:
            return self._turn(self._talk.start(seq))
        place = self._places[seq] if self._places is not None else seq
        wished, osl = self._lengths(place)
        prompt = self._content.prompt(place, wished)
        return self._request(seq, prompt, wished, prompt.output_tokens or osl)

    def _lengths(self, place: int) -> tuple[int | None, int]:
        if self._fixed is not None:
            return self._fixed
        laws, trace = self._workload.lengths, self._trace
        wished, osl = laws.pair(self._seeds["lengths"], place)
        if trace is not None:
            row = place % len(trace)
            wished = min(trace.input_tokens[row], laws.isl.largest) if laws.isl.of_trace else wished
            osl = min(trace.output_tokens[row], laws.osl.largest) if laws.osl.of_trace else osl
        return wished, osl

    def _request(self, seq: int, prompt: Prompt, wished: int | None, osl: int) -> Request:
        plan, workload = self._plan, self._workload
        model = self._model_of(seq)
        request = Request(
            seq,
            f"{self._prefix}{seq}",
            self._bodies.of(prompt, model, osl),
            prompt.text,
            wished,
            osl if workload.ignore_eos else None,
            model=model if plan.models else None,
        )
        if workload.cancel is not None:
            request.cancel_after_ns = self._cancelled(seq, self._life_ns)
        return request

    def _turn(self, session: Session) -> Request:
        """The request of a session's present turn; sequence numbers go on after all first turns."""
        number, turn = session.number, session.turn
        _, osl = self._workload.lengths.pair(child_seed(self._seeds["lengths"], "turn", turn), number)
        wished = self._talk.wished(number, 0) if turn == 0 else None
        prompt = Prompt(encoded(session.messages), session.messages)
        if self._plan.api != "chat":
            prompt = Prompt("\n\n".join(message["content"] for message in session.messages).encode())
        sessions = len(self.whole_due_ns) or _CLOSED_SESSIONS
        request = self._request(turn * sessions + number, prompt, wished, osl)
        request.session_id = f"{self._plan.run_id}-{self.step.step_index}-s{number}"
        request.turn = turn
        assert self._workload.sessions is not None
        if self._workload.sessions.sticky:
            request.affinity = request.session_id
        self._live[request.session_id] = session
        return request

    def follow_up(self, exchange: Exchange, answer: Answer) -> tuple[int, Exchange] | None:
        """The next turn after *answer* and the think time before it in ns; ``None``: the session is over, as
        it is after a failed turn. *answer* needs its text."""
        session = self._live.pop(exchange.request.session_id or "", None)
        if session is None or answer.status != "ok":
            return None
        tokens = None
        if answer.input_tokens is not None and answer.output_tokens is not None:
            tokens = answer.input_tokens + answer.output_tokens
        if not self._talk.go_on(session, answer.text, tokens):
            return None
        request = self._turn(session)
        turn = session.number // self._plan.shards + (0 if request.affinity else session.turn)
        think_ns = self._talk.think_ns(session.number, session.turn)
        return think_ns, self._on_replica(request, turn, 0)

    def data_record(self) -> dict[str, Any] | None:
        """The user's file as it was used: hash, rows, rows left out; of a trace its own rate, how it was made to
        meet the step's, and the factor."""
        data = self._trace or self._rows
        if data is None:
            return None
        record: dict[str, Any] = {"sha256": data.sha256, "rows": len(data), "left_out": data.left_out}
        if self._trace is not None and self._workload.trace is not None:
            rate = self._trace.requests_per_s
            scaling, factor = self._workload.trace.scaling, self.step.load_value / rate
            record["trace"] = {"requests_per_s": rate, "scaling": scaling, "factor": factor}
        return record

    def drawn(self, seq: int) -> str:
        """Lengths, model and cancellation of one request of the whole schedule, as text."""
        place = self._places[seq] if self._places is not None else seq
        draws = [self._model_of(seq) if len(self._models) > 1 else ""]
        if self._workload.cancel is not None:
            draws.append(repr(self._cancelled(seq, 1e9)))
        return f"{place} {self._lengths(place)} {draws}"

    def _model_of(self, seq: int) -> str:
        if len(self._models) == 1:
            return self._models[0]
        return self._models[self._model(uniforms(self._seeds["models"], seq, 1)[0])]

    def _cancelled(self, seq: int, life_ns: float) -> int | None:
        """How long after its send the request is cancelled, if it is."""
        assert self._workload.cancel is not None
        chosen, share = uniforms(self._seeds["cancel"], seq, 2)
        return round(share * life_ns) if chosen < self._workload.cancel.share else None

    def says(self, seq: int) -> bytes:
        """The prompt of one request of the whole schedule."""
        if self.sessions:
            return self._talk.says(seq, 0).encode()
        place = self._places[seq] if self._places is not None else seq
        return self._content.prompt(place, self._lengths(place)[0]).text


def _data(plan: Plan, workload: Workload) -> tuple[RequestFile | None, Trace | None]:
    """The user's file, if the profile takes one: its requests or its trace."""
    if plan.dataset is None:
        return None, None
    if workload.trace is not None:
        return None, open_trace(plan.dataset, workload.trace.format)
    if workload.text != "dataset" and not (workload.sessions is not None and workload.text == "dialogue"):
        return None, None
    bounds = workload.lengths.isl.figures if workload.lengths.isl.kind == "natural" else {}
    return open_requests(plan.dataset, bounds.get("low", 0), bounds.get("cap", 1_000_000)), None


def hashes(sources: list[StepSource]) -> tuple[str, str]:
    """SHA-256 of the schedule and of the prompts of all steps, the same in every shard."""
    schedule, prompts = Digest(), Digest()
    for source in sources:
        step, workload = source.step, source._workload
        times = (step.warmup_s, step.window_s, step.tail_s, step.warmup_rule)
        schedule.add(f"{step.step_index} {step.load_kind} {step.load_value!r} {step.arrival} {times!r}")
        schedule.add(canonical({name: workload.document[name] for name in ("isl", "osl", "stop")}))
        schedule.add(str((source.data_record() or {}).get("sha256", "")))
        due = array("q", source.whole_due_ns)
        if sys.byteorder == "little":
            due.byteswap()
        schedule.add(due.tobytes())
        count = len(due) if step.load_kind == "open" else HASHED_LENGTHS
        for seq in range(min(count, HASHED_LENGTHS)):
            schedule.add(source.drawn(seq))
        size = 0
        for seq in range(min(count, HASHED_PROMPTS)):
            text = source.says(seq)
            prompts.add(text)
            size += len(text)
            if size > _HASHED_BYTES:
                break
    return schedule.hex(), prompts.hex()
