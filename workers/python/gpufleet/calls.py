"""One call of a task's function: for one payload, or for the payloads of a run batch. What it yields are parts, and what it returns are results."""

from __future__ import annotations

import abc
import inspect
from typing import TYPE_CHECKING, Any

from .context import Context, _current
from .errors import Fail

if TYPE_CHECKING:
    from .tasks import Task


class Sink(abc.ABC):
    """Where outcomes go. Members are counted from 0; the first outcome of a member counts."""

    @abc.abstractmethod
    def result(self, member: int, value: Any) -> None:
        """A member has succeeded."""

    @abc.abstractmethod
    def error(self, member: int, error: BaseException) -> None:
        """A member has failed."""

    def together(self, members: list[Context]) -> Context:
        """The context of members that run in one call."""
        return _BatchContext(members)


class _BatchContext(Context):
    """The context of several members."""

    def __init__(self, members: list[Context]) -> None:
        first = members[0]
        super().__init__(first.task_id, first.attempt, kind=first.kind, gpu=first.gpu, wants_parts=any(each.wants_parts for each in members))
        self.members = members


class Chunk:
    """The call: its arguments, its members, and what came of each."""

    def __init__(self, task: Task[Any], function: Any, rows: list[tuple[int, Context, dict[str, Any]]], sink: Sink) -> None:
        self._task = task
        self._function = function
        self._sink = sink
        self._numbers = [number for number, _context, _arguments in rows]
        self._contexts = [context for _number, context, _arguments in rows]
        self._rows = [arguments for _number, _context, arguments in rows]
        self._parts: list[list[Any]] = [[] for _ in rows]
        self._over = [False] * len(rows)
        self.context = self._contexts[0] if task.batch is None else sink.together(self._contexts)

    def begin(self) -> Any:
        """Calls the function."""
        return self._function(**self._task.plan.arguments(self._rows, self.context))

    def part(self, value: Any) -> None:
        """It has yielded something: a part, or of a batch a part for each member (``None``: none; an exception: the member has failed)."""
        values = [value] if self._task.batch is None else _one_each(value, len(self._rows), "yielded")
        for place, each in enumerate(values):
            if self._over[place] or (each is None and self._task.batch is not None):
                continue
            if isinstance(each, BaseException):
                self._end(place, each)
                continue
            self._parts[place].append(each)
            self._contexts[place].part(each)

    def done(self, returned: Any) -> None:
        """It has returned."""
        if self._task.is_generator and returned is None:
            values: list[Any] = list(self._parts)
        elif self._task.batch is None:
            values = [returned]
        else:
            try:
                values = _one_each(returned, len(self._rows), "returned")
            except Fail as wrong:
                self.failed(wrong)
                return
        for place, value in enumerate(values):
            self._end(place, value)

    def failed(self, error: BaseException) -> None:
        """It has raised: so end all members that have not ended."""
        for place in range(len(self._rows)):
            self._end(place, error)

    def _end(self, place: int, outcome: Any) -> None:
        if self._over[place]:
            return
        self._over[place] = True
        if isinstance(outcome, BaseException):
            self._sink.error(self._numbers[place], outcome)
        else:
            self._sink.result(self._numbers[place], outcome)


def _one_each(values: Any, count: int, verb: str) -> list[Any]:
    """A value for each member. Arrays and tensors give their rows."""
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        raise Fail(f"the function was given {count} payloads and {verb} {type(values).__name__}, not a list of {count}", code="wrong_length")
    if len(values) != count:
        raise Fail(f"the function was given {count} payloads and {verb} a list of {len(values)}", code="wrong_length")
    return [values[place] for place in range(count)]


def run_sync(chunk: Chunk) -> Any:
    """Runs a call of a plain function or generator to its end; what it returns."""
    token = _current.set(chunk.context)
    try:
        made = chunk.begin()
        if not inspect.isgenerator(made):
            return made
        try:
            while True:
                try:
                    value = next(made)
                except StopIteration as stop:
                    return stop.value
                chunk.part(value)
                chunk.context.raise_if_cancelled()
        finally:
            made.close()
    finally:
        _current.reset(token)


async def run_async(chunk: Chunk) -> Any:
    """Runs a call of an async function or generator to its end; what it returns."""
    _current.set(chunk.context)
    made = chunk.begin()
    if not inspect.isasyncgen(made):
        return await made
    try:
        async for value in made:
            chunk.part(value)
            chunk.context.raise_if_cancelled()
    finally:
        await made.aclose()
    return None
