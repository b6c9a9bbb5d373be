"""A run: what a ``task`` or a ``batch`` message asked for, from its payloads to its answers."""

from __future__ import annotations

import asyncio
import sys
import traceback
from typing import Any, Callable, Optional, Sequence

from ..calls import Chunk, Sink, run_async, run_sync
from ..context import Context, Gpu
from ..errors import Cancelled, InvalidPayload
from ..frames import Buffer
from ..tasks import Task, chunks_of
from ..tensors import Tensor, find
from ..values import resolve
from .failures import cut, failure, forget, is_gpu_lost, leave
from .interrupt import Guard
from .outbox import Outbox, TooLarge, message
from .output import Speaking


class RunContext(Speaking):
    """The context of a task, or of a member of a run batch, that a worker waits for."""

    def __init__(self, run: Run, member: Optional[int], fields: dict[str, Any], gpu: Gpu) -> None:
        task_id, attempt = str(fields.get("task_id", "")), int(fields.get("attempt", 1))
        super().__init__(task_id, attempt, kind=run.task.kind, gpu=gpu, wants_parts=bool(fields.get("wants_parts")))
        self._run = run
        self.names = {"run": run.number} if member is None else {"run": run.number, "member": member}

    def _tell(self, fields: dict[str, Any], value: Optional[tuple[str, Any]]) -> None:
        # A thread that a task left behind may speak later: of a run that is over nothing is told.
        if not self._run.over:
            buffers = message({**fields, **self.names}, value, raw=False)
            put = self._run.outbox.put_through if fields.get("type") == "log" else self._run.outbox.put
            put(buffers)


class BatchContext(Speaking):
    """The context of members that run together."""

    def __init__(self, run: Run, members: list[Context]) -> None:
        first = members[0]
        super().__init__(first.task_id, first.attempt, kind=first.kind, gpu=first.gpu, wants_parts=any(each.wants_parts for each in members))
        self.members = members
        self._run = run

    def _tell(self, fields: dict[str, Any], value: Optional[tuple[str, Any]]) -> None:
        # Lines that it writes; progress and parts are told by the members.
        if not self._run.over:
            self._run.outbox.put_through(message({**fields, "run": self._run.number}, value))


class Run(Sink):
    """One run. It is made by the thread that reads, and worked on by one lane."""

    def __init__(
        self, head: dict[str, Any], segments: list[memoryview], task: Task[Any], function: Any, gpu: Gpu, outbox: Outbox, tensors: Sequence[Tensor] = ()
    ) -> None:
        self.number = int(head["run"])
        self.task = task
        self.outbox = outbox
        self.over = False
        self.interrupted = False
        self.guard: Optional[Guard] = None
        self.job: Optional[asyncio.Task[None]] = None
        self._function = function
        self._segments = segments
        self._tensors = list(tensors)
        members = head.get("members")
        self._fields: list[dict[str, Any]] = [head] if members is None else members
        self.contexts = [RunContext(self, None if members is None else place, fields, gpu) for place, fields in enumerate(self._fields)]
        self._answered = [False] * len(self.contexts)
        self._send: Callable[[list[Buffer]], None] = outbox.put_now

    def cancel(self, member: Optional[int]) -> None:
        """Nobody waits for the answer of a member, or of all, any more."""
        for place, context in enumerate(self.contexts):
            if member is None or member == place:
                context._cancelled = True

    def is_cancelled(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(context._cancelled for context in self.contexts)

    # Working.

    def work(self, guard_of: Callable[[], Guard]) -> None:
        """Runs it in this thread. Every member is answered afterwards."""
        # Between two calls nothing interrupts this thread, so answers are written without a change of threads.
        self._send = self.outbox.send
        for chunk in self._chunks():
            if self._skipped(chunk):
                continue
            try:
                returned = self._guarded(chunk, guard_of)
            except BaseException as error:
                self._end(chunk, error)
            else:
                self._finish(chunk, returned)
        self.close()

    def _guarded(self, chunk: Chunk, guard_of: Callable[[], Guard]) -> Any:
        guard = guard_of()
        self.guard = guard
        try:
            try:
                if self.interrupted:
                    # It came before there was a guard to be seen.
                    raise Cancelled
                return run_sync(chunk)
            finally:
                guard.close()
        finally:
            self.guard = None

    async def work_async(self) -> None:
        """Runs it in the loop. Every member is answered afterwards."""
        for chunk in self._chunks():
            if self._skipped(chunk):
                continue
            try:
                returned = await run_async(chunk)
            except BaseException as error:
                self._end(chunk, error)
            else:
                self._finish(chunk, returned)
        self.close()

    def _chunks(self) -> list[Chunk]:
        """Reads the payloads. What does not fit its kind is answered."""
        rows: list[tuple[int, Context, dict[str, Any]]] = []
        # A member's segments end where those of the next one begin: what lies behind them is another task's.
        starts = [int(fields.get("segments_from", 0)) for fields in self._fields]
        ends = [*starts[1:], len(self._segments)]
        tensors = self._tensors
        named = (lambda reference: find(reference, tensors)) if tensors else None
        for place, (context, fields) in enumerate(zip(self.contexts, self._fields)):
            try:
                payload = resolve(fields.get("payload"), self._segments[starts[place] : ends[place]], named)
                rows.append((place, context, self.task.plan.read(payload)))
            except InvalidPayload as error:
                self.error(place, error)
            except BaseException as error:
                self.error(place, InvalidPayload("payload", str(error) or type(error).__name__))
        self._segments = []
        return chunks_of(self.task, self._function, rows, self)

    def _skipped(self, chunk: Chunk) -> bool:
        """Whether nobody waits for a call that has not begun."""
        if not self.interrupted and not chunk.context.cancelled():
            return False
        chunk.failed(Cancelled())
        return True

    def _finish(self, chunk: Chunk, returned: Any) -> None:
        self._say_rest(chunk)
        try:
            chunk.done(returned)
        except BaseException as error:
            self._end(chunk, error)

    def _say_rest(self, chunk: Chunk) -> None:
        if isinstance(chunk.context, Speaking):
            chunk.context.say_rest()

    def _end(self, chunk: Chunk, error: BaseException) -> None:
        self._say_rest(chunk)
        chunk.failed(error)
        forget(error)

    def close(self) -> None:
        """What was not answered is: nothing may be left waiting."""
        for place in range(len(self.contexts)):
            self.error(place, Cancelled())
        self.over = True

    def broke(self, error: BaseException) -> None:
        """This package itself has failed: nothing of the user's is looked at any more, and everybody who waits is told."""
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.__stderr__)
        for place, answered in enumerate(self._answered):
            if not answered:
                self._fail(place, {"message": f"the Python package gpufleet failed: {type(error).__name__}; the worker's log has more", "retry": True})
        self.over = True

    def together(self, members: list[Context]) -> Context:
        return BatchContext(self, members)

    # Answering.

    def result(self, member: int, value: Any) -> None:
        if self._answered[member]:
            return
        try:
            buffers = message({"type": "result", **self.contexts[member].names}, ("result", value))
        except TooLarge as error:
            self._fail(member, {"message": f"the result is too large: {error}", "code": "result_too_large", "retry": False})
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(member, {"message": cut(f"the result cannot be sent: {error}"), "code": "executor_failed", "retry": False})
        else:
            self._answer(member, buffers)

    def error(self, member: int, error: BaseException) -> None:
        if is_gpu_lost(error):
            # What is answered already reaches the worker first.
            self.outbox.flush()
            leave(error)
        if not self._answered[member]:
            self._fail(member, failure(error, cancelled=self.contexts[member]._cancelled))

    def _fail(self, member: int, fields: dict[str, Any]) -> None:
        self._answer(member, message({"type": "error", **self.contexts[member].names, **fields}))

    def _answer(self, member: int, buffers: list[Buffer]) -> None:
        self._answered[member] = True
        if all(self._answered):
            self.over = True
            self._close_tensors()
        self._send(buffers)

    def _close_tensors(self) -> None:
        """Before the worker hears the last answer: from then on it may free their memory. The answer has been written by now; what of it lies in memory that is shared stays until it is sent."""
        tensors, self._tensors = self._tensors, []
        for tensor in tensors:
            try:
                tensor.close()
            except Exception as error:
                if is_gpu_lost(error):
                    self.outbox.flush()
                    leave(error)
                traceback.print_exception(type(error), error, error.__traceback__, file=sys.__stderr__)
