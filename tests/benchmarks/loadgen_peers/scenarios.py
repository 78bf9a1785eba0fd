"""The plan of a benchmark: which client meets which server under which load, how often, and for how long at most.

Belongs here: the table of jobs. Every job is bounded in requests and seconds. Does not belong here: running them
(``execute``), what their figures must be (``verdict``).

Answers come without a role chunk (``plain``) wherever timing is compared: with one sent early, a peer's first-token
time would be off by a whole TTFT for a reason that has a row of its own (``traps``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.benchmarks.loadgen_peers.clients import Floor, Load, Ours
from tests.benchmarks.loadgen_peers.measure import TICK_S

OURS, FLOOR = Ours.name, Floor.name
TTFT_MS, GAP_MS, TOKENS = 50.0, 10.0, 64
REQUEST_MS = TTFT_MS + GAP_MS * (TOKENS - 1)
LEVELS = {16: 12, 64: 12, 256: 20, 512: 10}  # streams -> requests each
MEMORY_REQUESTS = (1000, 4000, 12_000)
FAULT_TIMEOUT_S = 5.0
OPEN_RATE = 100.0
FREEZE_S = (5.0, 2.0)  # start, duration
BUSY = 4
UNPACED, UNPACED_8 = "unpaced", "unpaced, 8 a write"
_PACED = ("--ttft-ms", f"{TTFT_MS:g}", "--gap-ms", f"{GAP_MS:g}", "--tokens", f"{TOKENS}")
_PLAIN = (*_PACED, "--chunk-layout", "plain")
_PEER_START_S = 14.0  # a guess for the plan: command start to end, without the load itself
_OURS_START_S = 1.5


@dataclass(frozen=True, slots=True)
class Job:
    """One client, one server, one load. ``needs``: what the server's help must speak of. ``estimate_s`` is for
    the plan, ``limit_s`` is when the client is ended."""

    scenario: str
    level: str
    client: str
    load: Load
    truth: tuple[str, ...]
    estimate_s: float
    limit_s: float
    run: int = 0
    essential: bool = True
    busy: int = 0
    every_s: float = TICK_S
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.scenario} {self.level} {self.client}" + (f" #{self.run + 1}" if self.run else "")


def plan(peers: Sequence[str], *, runs: int, quick: bool, only: Sequence[str] = ()) -> list[Job]:
    """All jobs, the essential ones of each scenario first; *only* names scenarios."""
    jobs = [job for make in SCENARIOS.values() for job in make(peers, runs)]
    if quick:
        jobs = [_shorter(job) for job in jobs if _is_quick(job)]
    if only:
        jobs = [job for job in jobs if job.scenario in only]
    return sorted(jobs, key=lambda job: not job.essential)


def _is_quick(job: Job) -> bool:
    if job.run > 0 or (job.client not in (OURS, FLOOR) and not job.essential and job.level != "64"):
        return False
    return job.level in ("64", "256", "unpaced", "early-role") or job.scenario in ("start", "busy", "faults")


def _shorter(job: Job) -> Job:
    if job.scenario != "accuracy" or job.load.concurrency is None:
        return job
    requests = job.load.concurrency * 10
    return replace(job, load=replace(job.load, requests=requests), estimate_s=job.estimate_s / 2)


def start(peers: Sequence[str], runs: int) -> list[Job]:
    """Command start to the first request. The peers' is read from all their other runs."""
    truth = ("--ttft-ms", "5", "--gap-ms", "1", "--tokens", "4", "--chunk-layout", "plain")
    load = Load(requests=2, concurrency=1, tokens=4)
    return [Job("start", "cold", OURS, load, truth, 2.0, 30.0, run, every_s=0.01) for run in range(runs)]


def accuracy(peers: Sequence[str], runs: int) -> list[Job]:
    """Paced answers in lockstep; ours beside the floor, run by run; peers once."""
    jobs: list[Job] = []
    for streams in (256, 64, 512, 16):
        load = Load(requests=streams * LEVELS[streams], concurrency=streams, tokens=TOKENS)
        ideal_s = LEVELS[streams] * REQUEST_MS / 1e3
        for run in range(runs):
            for client in (OURS, FLOOR):
                took = ideal_s + _OURS_START_S
                jobs.append(Job("accuracy", str(streams), client, load, _PLAIN, took, 60 + 3 * ideal_s, run))
        for peer in peers:
            if streams == 512 and peer not in ("vllm-bench", "inference-perf"):
                continue
            took, limit = 1.5 * ideal_s + _PEER_START_S, 120 + 4 * ideal_s
            jobs.append(
                Job("accuracy", str(streams), peer, load, _PLAIN, took, limit, essential=streams == 256)
            )
    return jobs


def capacity(peers: Sequence[str], runs: int) -> list[Job]:
    """As many tokens a second as go through 64 streams of one process: an event a write, as engines do it, where
    the server may be what limits; and eight a write, where it is not."""
    jobs: list[Job] = []
    for level, more in ((UNPACED, ()), (UNPACED_8, ("--events-per-write", "8"))):
        truth = ("--null", "--tokens", "128", "--chunk-layout", "plain", *more)
        for run in range(min(runs, 3)):
            for client in (OURS, FLOOR):
                load = Load(requests=4000, concurrency=64, tokens=128)
                jobs.append(
                    Job("capacity", level, client, load, truth, 6.0, 90.0, run, needs=("--null", *more[:1]))
                )
        for peer in peers:
            load = Load(requests=1000, concurrency=64, tokens=128)
            essential = level == UNPACED or peer == "vllm-bench"
            jobs.append(
                Job(
                    "capacity",
                    level,
                    peer,
                    load,
                    truth,
                    12 + _PEER_START_S,
                    180.0,
                    essential=essential,
                    needs=("--null", *more[:1]),
                )
            )
    return jobs


def open_loop(peers: Sequence[str], runs: int) -> list[Job]:
    """A hundred requests a second, evenly and at random; and a server that falls silent for two seconds."""
    frozen = (*_PLAIN, "--freeze", f"{FREEZE_S[0]:g}:{FREEZE_S[1]:g}")
    jobs: list[Job] = []

    def add(client: str, level: str, seconds: float, truth: tuple[str, ...], *, essential: bool) -> None:
        arrival = "poisson" if level == "poisson" else "constant"
        load = Load(requests=round(OPEN_RATE * seconds), rate_per_s=OPEN_RATE, arrival=arrival, tokens=TOKENS)
        took = seconds + (_OURS_START_S if client == OURS else _PEER_START_S)
        jobs.append(Job("open", level, client, load, truth, took, 90 + 2 * seconds, essential=essential))

    for level in ("constant", "poisson"):
        add(OURS, level, 60, _PLAIN, essential=True)
    add(OURS, "freeze", 15, frozen, essential=True)
    for level, truth in (("constant", _PLAIN), ("freeze", frozen), ("poisson", _PLAIN)):
        for peer in peers:
            add(peer, level, 15 if level == "freeze" else 20, truth, essential=False)
    return jobs


def faults(peers: Sequence[str], runs: int) -> list[Job]:
    """Failures of every kind among a thousand requests; events cut into two writes as well, for ours."""
    kinds = "500:0.03,reset:0.02,hang:0.01,error_event:0.01"
    load = Load(requests=1000, concurrency=64, tokens=TOKENS, timeout_s=FAULT_TIMEOUT_S)
    plain = (*_PLAIN, "--faults", kinds)
    more = (*_PLAIN, "--faults", kinds + ",malformed:0.01", "--framing", "split")
    jobs = [
        Job("faults", "four kinds", OURS, load, plain, 20.0, 60.0),
        Job(
            "faults",
            "and malformed, split",
            OURS,
            load,
            more,
            20.0,
            60.0,
            needs=("malformed", "--framing"),
        ),
    ]
    for peer in peers:
        # vllm bench has no timeout to set, so a hang of the server lasts until its limit here.
        took, limit = (60.0, 60.0) if peer == "vllm-bench" else (12 + _PEER_START_S, 90.0)
        jobs.append(Job("faults", "four kinds", peer, load, plain, took, limit))
    return jobs


def busy(peers: Sequence[str], runs: int) -> list[Job]:
    """Four processes at normal priority that take every core there is, beside the client."""
    load = Load(requests=256 * 5, concurrency=256, tokens=TOKENS)
    return [Job("busy", "256", client, load, _PLAIN, 15.0, 120.0, busy=BUSY) for client in (OURS, FLOOR)]


def memory(peers: Sequence[str], runs: int) -> list[Job]:
    """The same load for longer."""
    truth = ("--null", "--tokens", "256", "--chunk-layout", "plain")
    return [
        Job(
            "memory",
            f"{requests} requests",
            OURS,
            Load(requests=requests, concurrency=64, tokens=256),
            truth,
            3 + requests / 400,
            240.0,
            every_s=0.05,
            needs=("--null",),
        )
        for requests in MEMORY_REQUESTS
    ]


def traps(peers: Sequence[str], runs: int) -> list[Job]:
    """Chunks that are no tokens, chunks of four tokens, events that are no JSON."""
    load = Load(requests=160, concurrency=16, tokens=TOKENS, timeout_s=10.0)
    early = (*_PACED, "--chunk-layout", "role-first")
    four = (*_PLAIN, "--tokens-per-chunk", "4")
    broken = (*_PLAIN, "--faults", "malformed:0.05")
    return [
        Job(
            "traps",
            level,
            client,
            load,
            truth,
            8 + (_OURS_START_S if client == OURS else _PEER_START_S),
            120.0,
            essential=client == OURS,
            needs=needs,
        )
        for client in (OURS, *peers)
        for level, truth, needs in (
            ("early-role", early, ()),
            ("4 per chunk", four, ()),
            ("malformed", broken, ("malformed",)),
        )
    ]


SCENARIOS = {
    "start": start,
    "accuracy": accuracy,
    "capacity": capacity,
    "open": open_loop,
    "faults": faults,
    "busy": busy,
    "memory": memory,
    "traps": traps,
}
