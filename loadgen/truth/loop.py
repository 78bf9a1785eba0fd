"""The ground-truth server's loop: one process, one epoll, one timer, an absolute schedule.

Belongs here: connections, slots, sending each write at its due time. Does not belong here: bytes (``answers``,
``wire``), what is asked (``asking``), the log (``jobs``), pages (``pages``).

A write is due at service start + its offset; lateness never accumulates, not even over a queue: a slot is
free when its last write was due. Service starts when the kernel had the whole request. During a freeze
requests are read and stamped and nothing is sent; what was due then is sent at its end, and later writes
keep their own due times. A client that does not read does not stop the schedule: bytes its socket does not
take wait here, and are counted (without pacing the answer waits instead).
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import BinaryIO

from loadgen.timer import Timer
from loadgen.truth import pages
from loadgen.truth.answers import Answers
from loadgen.truth.asking import Asked, Refusal, read_request
from loadgen.truth.draws import Draws
from loadgen.truth.incoming import CONTINUE, Incoming, Partial, take
from loadgen.truth.jobs import NS, Job, Record, Usage
from loadgen.truth.metrics import Live, Totals
from loadgen.truth.options import Behaviour
from loadgen.truth.prefix import PrefixTrie
from loadgen.truth.stamps import SAMPLE_EVERY_NS, ReceiveClock, ask_for_stamps, receive
from loadgen.truth.wire import document

_SENDS_A_TURN = 64
_QUIET_NS = 1_000_000  # lines of the log are made only while nothing is due for so long
_NEVER = 1 << 62
_RESET = struct.pack("ii", 1, 0)  # linger for no time: the close is a reset


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection; ``unsent`` waits for the socket to take more."""

    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    job: Job | None = None
    waiting: bool = False  # for the socket to take what is unsent
    parked: bool = False  # without pacing: the job waits for that too
    told_to_go_on: bool = False
    close_when_sent: bool = False
    user_ns: int = 0
    kernel_ns: int | None = None


class TruthServer:
    """Serve on *host*:*port* (0 = any) until :meth:`stop` is called from a signal handler; ``port`` is the
    one bound. Raises ``OSError`` if the address cannot be had."""

    def __init__(self, behaviour: Behaviour, host: str, port: int, log: BinaryIO | None) -> None:
        self.behaviour = behaviour
        self._draws, self._answers = Draws(behaviour), Answers(behaviour)
        self.totals = Totals(detail=behaviour.metrics_style == "vllm")
        self.usage, self.clock = Usage(), ReceiveClock()
        self.record = Record(log, self.totals.observe)
        self.trie = None if behaviour.prefix_cache is None else PrefixTrie(behaviour.prefix_cache)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=4096)
        self._listener.setblocking(False)
        ask_for_stamps(self._listener)
        self.port: int = self._listener.getsockname()[1]
        self._epoll, self._timer = select.epoll(), Timer()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._timer.fileno(), select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._due: list[tuple[int, int, Job]] = []
        self._queue: deque[Job] = deque()
        self._busy = self._number = 0
        self._freeze_ns = (_NEVER, _NEVER)
        self._running = True

    def stop(self) -> None:
        """Leave the loop within a tenth of a second."""
        self._running = False

    def run(self) -> None:
        """The loop; ends with the log complete."""
        gc.collect()
        gc.disable()  # a collection is a pause of ms; nothing here makes cycles that outlive a request
        listener, timer = self._listener.fileno(), self._timer.fileno()
        poll, connections = self._epoll.poll, self._connections
        wait_s = 0.1
        while self._running:
            for descriptor, events in poll(wait_s):
                if descriptor == timer:
                    self._timer.clear()
                elif descriptor == listener:
                    self._accept()
                elif (connection := connections.get(descriptor)) is not None:
                    if events & select.EPOLLOUT:
                        self._flush(connection)
                    if events & ~select.EPOLLOUT and descriptor in connections:
                        self._receive(connection)
            due = self._send_due()
            wait_s = 0.1 if due else 0
            if due:
                now = time.perf_counter_ns()
                if due - now > _QUIET_NS:
                    self.record.work(min(due, now + SAMPLE_EVERY_NS) - _QUIET_NS)
                if due != _NEVER:
                    self._timer.arm(due)
            now = time.perf_counter_ns()
            if now - self.clock.sampled_ns >= SAMPLE_EVERY_NS:
                self.clock.sample()
                self.usage.tick(now)
        for connection in list(connections.values()):
            self._close(connection, "stopped")
        self._listener.close()
        self.usage.tick(time.perf_counter_ns(), last=True)
        self.record.settle()
        self.record.close(self.figures())

    def live(self) -> Live:
        """What is going on now."""
        jobs = [one.job for one in self._connections.values() if one.job is not None]
        running = [job for job in jobs if job.began_ns]
        sent = [(job.asked.input_tokens, job.tokens) for job in running]
        return Live(
            running=len(running),
            waiting=len(jobs) - len(running),
            prompt_tokens=sum(given for given, tokens in sent if tokens),
            generated_tokens=sum(tokens for _, tokens in sent),
            resident_tokens=sum(given + tokens for given, tokens in sent),
        )

    def figures(self) -> dict[str, float]:
        """The server's own use and counts, for the last line of the log."""
        return {
            **self.usage.figures(),
            "requests": self.totals.requests,
            "tokens": self.totals.generated_tokens,
            "sends": self.totals.sends,
            "buffered_sends": self.totals.buffered_sends,
            "clock_jumps": self.clock.jumps,
            "clock_fallbacks": self.clock.fallbacks,
        }

    # ------------------------------------------------------------------ connections

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # the client is gone again, or no descriptor is left
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[sock.fileno()] = Connection(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _receive(self, connection: Connection) -> None:
        try:
            data, kernel_ns = receive(connection.sock)
        except BlockingIOError:
            return
        except OSError:
            return self._close(connection, "disconnected")
        connection.user_ns, connection.kernel_ns = time.perf_counter_ns(), kernel_ns
        if not data:
            return self._close(connection, "disconnected")
        connection.received += data
        self._next_request(connection)

    def _next_request(self, connection: Connection) -> None:
        """Take whole requests from what was received; one after a completion waits for its answer."""
        while connection.job is None and connection.received and not connection.close_when_sent:
            try:
                request = take(connection.received)
            except Refusal as error:
                connection.close_when_sent = True
                return self._send(
                    connection, document(self.behaviour, error.status, error.document, close=True)
                )
            if isinstance(request, Partial):
                if request.waits and not connection.told_to_go_on:
                    connection.told_to_go_on = True
                    self._send(connection, CONTINUE)
                return None
            connection.told_to_go_on, connection.close_when_sent = False, request.close
            if request.method == "POST" and request.path.endswith(pages.COMPLETIONS):
                self._complete(connection, request)
            else:
                status, content = pages.page(self, request)
                self._send(connection, document(self.behaviour, status, content, close=request.close))
        return None

    def _close(self, connection: Connection, how: str, *, reset: bool = False) -> None:
        if reset:
            with contextlib.suppress(OSError):
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._connections.pop(connection.sock.fileno(), None)
        self._epoll.unregister(connection.sock.fileno())
        connection.sock.close()
        if connection.job is not None:
            self._end(connection.job, how, time.perf_counter_ns())

    # ------------------------------------------------------------------ requests

    def _complete(self, connection: Connection, request: Incoming) -> None:
        """Queue an answer, or refuse."""
        behaviour = self.behaviour
        user_ns, kernel_ns = (
            connection.user_ns,
            self.clock.monotonic(connection.kernel_ns, connection.user_ns),
        )
        self.totals.requests += 1
        if self._freeze_ns[0] == _NEVER and behaviour.freeze_s is not None:
            start = user_ns + int(behaviour.freeze_s[0] * NS)
            self._freeze_ns = (start, start + int(behaviour.freeze_s[1] * NS))
        try:
            asked = read_request(request.path.endswith("/chat/completions"), request.body, behaviour)
        except Refusal as error:
            return self._send(
                connection, document(behaviour, error.status, error.document, close=request.close)
            )
        draw = self._draws.next()
        cached = 0 if self.trie is None else self._remember(asked)
        answer = self._answers.answer(asked, draw.tokens, draw.fault, cached, request.close)
        self._number += 1
        job = Job(
            self._number,
            connection,
            request.headers.get("x-request-id", ""),
            user_ns,
            kernel_ns,
            asked,
            draw,
            cached,
            answer,
            connection.sock.send,
            answer.data,
        )
        if not behaviour.null:
            job.ttft_ms, job.gap_ms = draw.paced(answer.timing.gaps)
            job.offsets = answer.timing.offsets(job.ttft_ms, job.gap_ms)
        connection.job = job
        if behaviour.slots == 0 or self._busy < behaviour.slots:
            return self._start(job, job.arrived_ns)
        self._queue.append(job)
        return None

    def _remember(self, asked: Asked) -> int:
        assert self.trie is not None
        cached = self.trie.look_up(asked.words)
        self.trie.add(asked.words)
        return cached

    def _start(self, job: Job, now: int) -> None:
        self._busy += 1
        job.began_ns = now
        if job.answer.data:
            heapq.heappush(self._due, (now + job.offsets[0] if job.offsets else now, job.number, job))

    def _end(self, job: Job, how: str, at_ns: int) -> None:
        """Free the slot at *at_ns*, for the next in the queue, and pass the job on to the record."""
        job.ended = how
        job.connection.job = None
        job.send = len  # drops what may still hold the connection
        if self.trie is not None and job.next and job.tokens:
            answered = "".join(self._answers.wire.words(job.tokens)).split()
            self.trie.add([*job.asked.words, *answered])
        self.record.take(job)
        if job.began_ns:
            self._busy -= 1
            while self._queue and self._busy < self.behaviour.slots:
                following = self._queue.popleft()
                if following.ended is None:
                    self._start(following, max(at_ns, following.arrived_ns))

    # ------------------------------------------------------------------ sending

    def _send_due(self) -> int:
        """Send what is due, but for a turn only, so that requests are read and stamped during a burst.
        Returns when the next write is due: 0 = now, ``_NEVER`` = there is none.

        This is what limits how much load the server can answer: a heap of (due, job number, job), one
        stamp a send which is also the time it is compared with, and the socket's own ``send``.
        """
        due_heap, clock, paced = self._due, time.perf_counter_ns, not self.behaviour.null
        replace = heapq.heapreplace
        if self._freeze_ns[0] <= clock() < self._freeze_ns[1]:
            return self._freeze_ns[1]
        for _ in range(_SENDS_A_TURN):
            if not due_heap:
                return _NEVER
            due, number, job = due_heap[0]
            now = clock()
            if due > now:
                return due
            if job.ended is not None:
                heapq.heappop(due_heap)
                continue
            index, writes = job.next, job.data
            data = writes[index]
            job.stamps.append(now)
            try:
                sent = job.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                job.stamps.pop()
                self._close(job.connection, "disconnected")
                continue
            job.next = index = index + 1
            if sent != len(data):
                self._block(job, data[sent:])
            if index == len(writes):
                heapq.heappop(due_heap)
                self._finish(job, due)
            elif paced:
                replace(due_heap, (job.began_ns + job.offsets[index], number, job))
            elif job.connection.waiting:
                heapq.heappop(due_heap)
                job.connection.parked = True
            else:
                replace(due_heap, (now, number, job))
        return 0

    def _finish(self, job: Job, due_ns: int) -> None:
        """The last write is out, which was due at *due_ns*."""
        connection = job.connection
        if job.answer.ending == "stall":
            return None
        if job.answer.ending == "reset":
            return self._close(connection, "reset", reset=True)
        if self.behaviour.null:
            due_ns = time.perf_counter_ns()
        elif self._freeze_ns[0] <= due_ns < self._freeze_ns[1]:
            due_ns = self._freeze_ns[1]
        self._end(job, "sent", due_ns)
        if self.behaviour.connection != "keep-alive":
            connection.close_when_sent = True
        if not connection.close_when_sent:
            return self._next_request(connection)
        return None if connection.waiting else self._close(connection, "sent")

    def _block(self, job: Job, rest: bytes) -> None:
        """The socket takes no more: until it does, *rest* and what follows wait here."""
        connection = job.connection

        def keep(data: bytes) -> int:
            job.buffered += 1
            connection.unsent += data
            return len(data)

        keep(rest)
        job.send = keep
        connection.waiting = True
        self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _send(self, connection: Connection, data: bytes) -> None:
        """Send something that no job does."""
        connection.unsent += data
        if not connection.waiting:
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        """Send what waits, as much as the socket takes."""
        try:
            del connection.unsent[: connection.sock.send(connection.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            return self._close(connection, "disconnected")
        if bool(connection.unsent) != connection.waiting:
            connection.waiting = bool(connection.unsent)
            want = select.EPOLLIN | (select.EPOLLOUT if connection.waiting else 0)
            self._epoll.modify(connection.sock.fileno(), want)
        if connection.waiting:
            return None
        job = connection.job
        if job is None:
            return self._close(connection, "sent") if connection.close_when_sent else None
        job.send = connection.sock.send
        if connection.parked:
            connection.parked = False
            heapq.heappush(self._due, (time.perf_counter_ns(), job.number, job))
        return None
