"""What a running task can say and ask: ``context`` inside it, or a parameter with the hint ``Context``."""

from __future__ import annotations

import contextvars
import dataclasses
from typing import Any, Optional

from .errors import Cancelled


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The GPU of this process. It sees this one alone, as device ``index``, which is 0; a simulated one is none at all."""

    id: str = "local"
    name: str = "local"
    memory_mb: int = 0
    compute_capability: str = "0.0"
    simulated: bool = True
    index: int = 0
    slots: int = 1

    @property
    def device(self) -> str:
        """What PyTorch calls it: ``cuda:0``, or ``cpu`` for a simulated GPU."""
        return "cpu" if self.simulated else f"cuda:{self.index}"


class Context:
    """One task, or the tasks of one run batch (``members``)."""

    def __init__(self, task_id: str, attempt: int = 1, *, kind: str = "", gpu: Optional[Gpu] = None, wants_parts: bool = False) -> None:
        self.task_id = task_id
        #: Which attempt this is, from 1.
        self.attempt = attempt
        self.kind = kind
        self.gpu = gpu if gpu is not None else Gpu()
        #: Whether anybody listens to parts.
        self.wants_parts = wants_parts
        #: Of a run batch: a context for each payload, in their order. Otherwise this one alone.
        self.members: list[Context] = [self]
        self._cancelled = False

    def progress(self, fraction: float, message: Optional[str] = None) -> None:
        """Tells how far the task is, 0 to 1, and what it does now. In a run batch it is told for each member."""
        fraction = min(max(float(fraction), 0.0), 1.0)
        for member in self._speaking():
            member._tell({"type": "progress", "fraction": fraction, **({} if message is None else {"message": str(message).encode(errors="replace").decode()})}, None)

    def part(self, value: Any) -> None:
        """Gives a piece of the output before the result. Nobody waits for it: where nobody listens, nothing is sent."""
        for member in self._speaking():
            if member.wants_parts:
                member._tell({"type": "part"}, ("value", value))

    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more. Of a run batch: of none of its members."""
        return self._cancelled or (self.members != [self] and all(member._cancelled for member in self.members))

    def raise_if_cancelled(self) -> None:
        """Ends the task here, by ``Cancelled``, if nobody waits for it any more."""
        if self.cancelled():
            raise Cancelled

    def _speaking(self) -> list[Context]:
        return [member for member in self.members if not member._cancelled]

    def _tell(self, message: dict[str, Any], value: Optional[tuple[str, Any]]) -> None:
        """A test with no fleet has nobody to tell."""


_current: contextvars.ContextVar[Context] = contextvars.ContextVar("gpufleet.context")


def current() -> Optional[Context]:
    """The context of the task that runs here, if one does."""
    return _current.get(None)


class _Proxy:
    """Stands for the context of the task that runs in this thread or coroutine."""

    def __getattr__(self, name: str) -> Any:
        found = _current.get(None)
        if found is None:
            raise RuntimeError(f"context.{name}: no task runs here. A thread that a task starts has no context of its own: give it what it needs")
        return getattr(found, name)

    def __repr__(self) -> str:
        return f"<context of {_current.get(None)!r}>"


#: The context of the task that runs here.
context: Context = _Proxy()  # type: ignore[assignment]
