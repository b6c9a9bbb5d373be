"""Where runs are worked on: the main thread, threads of a pool, an event loop. Nothing here forks."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any, Callable, Optional

from .interrupt import Guard, MainGuard
from .runs import Run

Over = Callable[[Run], None]


def worked(run: Run, guard_of: Callable[[], Guard]) -> None:
    """Works on a run. What this package itself fails at is answered too, and ends no lane: those that wait behind it would wait for ever."""
    try:
        run.work(guard_of)
    except BaseException as error:
        run.broke(error)


class MainLane:
    """The main thread, one run at a time: here, an interrupt also ends a wait, and libraries that want the main thread have it."""

    def __init__(self, over: Over) -> None:
        self._over = over
        self._waiting: queue.SimpleQueue[Optional[Run]] = queue.SimpleQueue()
        self._here: dict[int, Run] = {}

    def is_busy(self) -> bool:
        """Whether a run is here that has not been answered: the worker may send the next one before this thread has come back."""
        return any(not run.over for run in list(self._here.values()))

    def submit(self, run: Run) -> None:
        """Takes a run."""
        self._here[run.number] = run
        self._waiting.put(run)

    def stop(self) -> None:
        """Ends ``serve`` after what waits."""
        self._waiting.put(None)

    def serve(self) -> None:
        """Works until it is stopped."""
        while True:
            run = self._waiting.get()
            if run is None:
                return
            worked(run, MainGuard)
            self._here.pop(run.number, None)
            self._over(run)
            # A payload must not stay in memory until the next run.
            del run


class ThreadLane:
    """Threads that are started as they are needed, up to a number, and stay."""

    def __init__(self, threads_max: int, over: Over) -> None:
        self._threads_max = threads_max
        self._over = over
        self._waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._idle: set[int] = set()
        self._threads = 0

    def submit(self, run: Run) -> None:
        """Takes a run. Called by the one thread that reads."""
        self._waiting.put(run)
        if self._waiting.qsize() > len(self._idle) and self._threads < self._threads_max:
            self._threads += 1
            threading.Thread(target=self._work, name=f"gpufleet-task-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        own = threading.get_ident()
        while True:
            self._idle.add(own)
            run = self._waiting.get()
            self._idle.discard(own)
            worked(run, Guard)
            self._over(run)
            del run


class LoopLane:
    """An event loop in a thread of its own."""

    def __init__(self, over: Over, loop: asyncio.AbstractEventLoop) -> None:
        self._over = over
        self.loop = loop
        self._turns: dict[str, asyncio.Semaphore] = {}
        threading.Thread(target=self._serve, name="gpufleet-loop", daemon=True).start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def submit(self, run: Run) -> None:
        """Takes a run."""
        self.loop.call_soon_threadsafe(self._begin, run)

    def cancel(self, run: Run) -> None:
        """Cancels the run's asyncio task."""
        self.loop.call_soon_threadsafe(self._cancel, run)

    def _begin(self, run: Run) -> None:
        # The loop keeps only a weak reference to a task; the run keeps it as long as it is there.
        run.job = self.loop.create_task(self._work(run))
        # A task that is cancelled before its first step runs nothing at all, so its end is seen from outside.
        run.job.add_done_callback(lambda _job: self._ended(run))

    def _ended(self, run: Run) -> None:
        try:
            run.close()
        except BaseException as error:
            run.broke(error)
        self._over(run)

    def _cancel(self, run: Run) -> None:
        if run.job is not None and not run.over:
            run.job.cancel()

    async def _work(self, run: Run) -> None:
        if run.task.concurrency is None:
            await run.work_async()
            return
        async with self._turns.setdefault(run.task.kind, asyncio.Semaphore(run.task.concurrency)):
            await run.work_async()


def finished(made: Any, loop: Optional[asyncio.AbstractEventLoop]) -> Any:
    """The outcome of a call that may have been one of an async function."""
    if not asyncio.iscoroutine(made):
        return made
    if loop is None:
        return asyncio.run(made)
    return asyncio.run_coroutine_threadsafe(made, loop).result()
