"""Waiting texts joined into batches: bounded in number, in size and in time, fair to the short.

A fixed number of lanes compute, each a thread with its share of the cores, so that requests do not fight
over them. Each batch takes a text from one request after the other until it is full: the token budget, or
an equal part of what waits for each lane that is free. So a request of one text waits for a batch that is
running and then for its own, never for another request to end. A text that alone is larger than the budget
is computed alone, and its lane turns to the small ones between its parts (:meth:`Batcher.breathe`).
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from time import monotonic
from typing import Any, Protocol

log = logging.getLogger("bertcnn.server")

MOST_SECONDS = 60
"""Greatest Retry-After; nobody knows what will be in a minute."""

RATE_WEIGHT = 0.1
"""Share of the last batch in the running mean of tokens a second."""

FULL_ENOUGH = 8
"""A batch of an eighth of the budget tells the rate; a smaller one is slow for want of texts."""


class Work(Protocol):
    """What is to be done with texts. Texts whose work is equal, by model and options, are computed together."""

    def __call__(self, texts: list[str]) -> list[Any]:
        """Return an answer a text, in order."""


class _Abandoned(Exception):  # noqa: N818  # nobody waits any more
    """Everybody who asked for what is being computed went away."""


class Busy(Exception):  # noqa: N818  # an answer, not a fault
    """The queue is full.

    Attributes:
        retry_after: Seconds in which what waits now will be done, 1 to 60.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many texts are waiting. Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclass(frozen=True)
class ComputedBatch:
    """What was computed in one go, for the metrics."""

    texts: int
    tokens: int
    seconds: float


@dataclass(eq=False)
class _Job:
    """A request: its texts, and how far they are."""

    work: Work
    texts: Sequence[str]
    tokens: Sequence[int]
    future: "asyncio.Future[list[Any]]"
    arrived: float
    taken: int = 0
    answers: dict[int, Any] = field(default_factory=dict)
    is_dropped: bool = False

    @property
    def waiting(self) -> Sequence[int]:
        """Tokens of the texts that were not taken."""
        return self.tokens[self.taken :]


_Picked = list[tuple[_Job, int]]


class Batcher:
    """A bounded queue of texts, and the threads that compute them.

    ======================  =============================================================
    ``start()``             begin, on the running event loop
    ``submit(work, ...)``   wait for answers; raises :class:`Busy`
    ``breathe()``           what long work calls between its parts
    ``close()``             finish what runs, drop what waits
    ======================  =============================================================

    Args:
        max_tokens: Tokens of a batch.
        max_wait_seconds: How long a text waits for company.
        queue_texts: Texts that may wait. A request that finds the queue empty is always taken.
        queue_seconds: How long a request may have to wait for its turn, by the rate of late.
        lanes: Threads that compute, each a batch of its own.
        observe: Told of each batch, on the thread that computed it.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        max_wait_seconds: float,
        queue_texts: int,
        queue_seconds: float = 2.0,
        lanes: int = 1,
        observe: Callable[[ComputedBatch], None] = lambda _: None,
    ) -> None:
        self.max_tokens, self.max_wait_seconds = max_tokens, max_wait_seconds
        self.queue_texts, self.queue_seconds = queue_texts, queue_seconds
        self.observe = observe
        self.waiting_texts = self.waiting_tokens = 0
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._lanes = [
            threading.Thread(target=self._run, name=f"bertcnn-compute-{i}", daemon=True) for i in range(lanes)
        ]
        self._busy_lanes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._here = threading.local()
        self._lane_rate = 0.0

    # ---- on the event loop

    def start(self) -> None:
        """Begin to compute."""
        self._loop = asyncio.get_running_loop()
        for lane in self._lanes:
            lane.start()

    async def close(self) -> None:
        """Finish the batches that run, and drop what waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            if lane.is_alive():
                await asyncio.to_thread(lane.join)
        for job in self._jobs:
            job.future.cancel()
        self._jobs.clear()

    @property
    def _rate(self) -> float:
        """Tokens a second of all lanes together, of late; 0 where nobody knows."""
        return self._lane_rate * len(self._lanes)

    def check(self, texts: int = 1) -> None:
        """Refuse now what would be refused later.

        Raises:
            Busy: So many more texts find no room, or would wait too long.
        """
        with self._changed:
            is_full = bool(self._jobs) and self.waiting_texts + texts > self.queue_texts
            if is_full or self._is_slow(texts):
                seconds = self.waiting_tokens / self._rate if self._rate else 1.0
                raise Busy(min(max(1, ceil(seconds)), MOST_SECONDS))

    def _is_slow(self, texts: int) -> bool:
        """Return whether a request would wait too long: all who wait have as many turns as it, and then it has its own.

        What is larger than the budget counts as the budget, for others are let in between its parts.
        """
        most = self._rate * self.queue_seconds
        if not self._rate or self.waiting_tokens <= most:
            return False
        turns = (job.tokens[job.taken : job.taken + texts] for job in self._jobs)
        return sum(min(cost, self.max_tokens) for some in turns for cost in some) > most

    async def submit(self, work: Work, texts: Sequence[str], tokens: Sequence[int]) -> list[Any]:
        """Wait for the answers to some texts.

        Whoever is cancelled while waiting takes his texts out of the queue.

        Args:
            work: What to do with them.
            texts: Any number.
            tokens: What each costs, in word pieces.

        Raises:
            Busy: The queue is full.
        """
        if not texts:
            return []
        assert self._loop is not None, "not started"
        job = _Job(work, texts, tokens, self._loop.create_future(), monotonic())
        with self._changed:
            self.check(len(texts))
            was_empty = not self._jobs
            self._jobs.append(job)
            self._count(job, 1)
            if was_empty or self.waiting_tokens >= self.max_tokens:
                self._changed.notify_all()
        try:
            return await job.future
        except BaseException:  # cancelled, or one of its texts failed: the others need no answer
            self._drop(job)
            raise

    def _drop(self, job: _Job) -> None:
        with self._changed:
            job.is_dropped = True
            if job in self._jobs:
                self._jobs.remove(job)
                self._count(job, -1)

    def _count(self, job: _Job, sign: int) -> None:
        self.waiting_texts += sign * len(job.waiting)
        self.waiting_tokens += sign * sum(job.waiting)

    # ---- on the lanes

    def _run(self) -> None:
        while (picked := self._next()) is not None:
            self._here.can_breathe = sum(job.tokens[i] for job, i in picked) > self.max_tokens
            self._here.jobs, self._here.aside = {job for job, _ in picked}, 0.0
            self._compute(picked)
            with self._changed:
                self._busy_lanes -= 1
            self._here.jobs = set()  # or the texts, and their model, stay until the next ones come
            del picked

    def _next(self) -> _Picked | None:
        """Wait for the next batch; None at the end."""
        with self._changed:
            while not self._is_closed:
                if not self._jobs:
                    self._changed.wait()
                elif (left := self._patience()) > 0:
                    self._changed.wait(left)
                else:
                    share = ceil(self.waiting_tokens / (len(self._lanes) - self._busy_lanes))
                    self._busy_lanes += 1
                    return self._pick(min(share, self.max_tokens), takes_large=True)
        return None

    def _patience(self) -> float:
        """Return how many seconds more the oldest may wait for company."""
        if self.waiting_tokens >= self.max_tokens:
            return 0.0
        return min(job.arrived for job in self._jobs) + self.max_wait_seconds - monotonic()

    def breathe(self) -> None:
        """Compute what small texts wait, once, in the midst of a large one. Elsewhere, do nothing.

        Raises:
            _Abandoned: All who asked for the large one went away; the lane is free for others.
        """
        if not getattr(self._here, "can_breathe", False):
            return
        if all(job.is_dropped for job in self._here.jobs):
            raise _Abandoned
        with self._changed:
            picked = self._pick(self.max_tokens, takes_large=False) if self._jobs else []
        if picked:
            self._here.can_breathe = False  # one level is enough
            begun = monotonic()
            try:
                self._compute(picked)
            finally:
                self._here.can_breathe = True
                self._here.aside += monotonic() - begun

    def _pick(self, budget: int, *, takes_large: bool) -> _Picked:
        """Take texts of the same work, one of each request in turn, until the budget is full."""
        turns = deque(job for job in self._jobs if takes_large or job.tokens[job.taken] <= budget)
        if not turns:
            return []
        work = turns[0].work
        picked: _Picked = []
        size = 0
        while turns and size < budget:
            job = turns.popleft()
            cost = job.tokens[job.taken]
            if job.work != work or (picked and size + cost > budget):
                continue
            picked.append((job, job.taken))
            size += cost
            self._take(job, cost)
            if job.taken < len(job.texts):
                turns.append(job)
        self._queue_again(picked)
        return picked

    def _take(self, job: _Job, cost: int) -> None:
        job.taken += 1
        self.waiting_texts -= 1
        self.waiting_tokens -= cost

    def _queue_again(self, picked: _Picked) -> None:
        """Put those whose turn it was behind the others, and let go of the ones that are taken whole."""
        had = dict.fromkeys(job for job, _ in picked)
        rest = [job for job in self._jobs if job not in had]
        self._jobs = deque([*rest, *(job for job in had if job.taken < len(job.texts))])

    def _compute(self, picked: _Picked) -> None:
        picked = [(job, i) for job, i in picked if not job.is_dropped]
        if not picked:
            return
        begun, aside = monotonic(), self._here.aside
        tokens = sum(job.tokens[i] for job, i in picked)
        done = self._answers(picked)
        seconds = monotonic() - begun - (self._here.aside - aside)  # less what others were let in for
        if all(isinstance(answer, _Abandoned) for _, _, answer in done):  # what was left undone took no time
            return
        if FULL_ENOUGH * tokens >= self.max_tokens:
            rate = tokens / max(seconds, 1e-6)
            self._lane_rate += RATE_WEIGHT * (rate - self._lane_rate) if self._lane_rate else rate
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_deliver, done)
        try:
            self.observe(ComputedBatch(len(picked), tokens, seconds))
        except Exception:  # as of a full disk under the counts: it must not end the lane
            log.exception("counts not kept")

    def _answers(self, picked: _Picked) -> list[tuple[_Job, int, Any]]:
        """Return answers, or errors in their place; what goes wrong for one request fails no other."""
        try:
            found = picked[0][0].work([job.texts[i] for job, i in picked])
            return [(job, i, answer) for (job, i), answer in zip(picked, found, strict=True)]
        except Exception as error:  # noqa: BLE001  # it is its caller's, not this thread's
            if isinstance(error, _Abandoned) or len({job for job, _ in picked}) == 1:
                return [(job, i, error) for job, i in picked]
        alone = groupby(sorted(picked, key=lambda one: id(one[0])), key=lambda one: one[0])
        return [answer for _, mine in alone for answer in self._answers(list(mine))]


def _deliver(done: Iterable[tuple[_Job, int, Any]]) -> None:
    """Give answers to those who wait for them; on the event loop."""
    for job, i, answer in done:
        if job.future.done():
            continue
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
            continue
        job.answers[i] = answer
        if len(job.answers) == len(job.texts):
            job.future.set_result([job.answers[k] for k in range(len(job.texts))])
