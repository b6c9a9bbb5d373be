"""What a handler raises to say how an attempt ended, and what a client raises when a task did not succeed."""

from __future__ import annotations

from typing import Any, Optional


class Retry(Exception):
    """The attempt failed, and another one may help.

    ``after_s`` is the pause before it, in seconds; without it the fleet's own pause applies.
    """

    def __init__(self, message: str = "the handler asked for another attempt", *, after_s: Optional[float] = None, code: Optional[str] = None) -> None:
        super().__init__(message)
        if after_s is not None and not 0 <= after_s <= 30 * 86_400:
            raise ValueError(f"after_s must be 0 seconds to 30 days, not {after_s}")
        self.after_s = after_s
        self.code = code


class Fail(Exception):
    """The task failed, and no other attempt will help. ``field`` is the part of the payload that is at fault, as ``text`` or ``items[3].size``."""

    def __init__(self, message: str, *, code: str = "executor_failed", field: Optional[str] = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class OutOfMemory(Exception):
    """The GPU's memory was too small: the fleet cuts the work, or looks for a larger GPU. ``memory_mb`` is what the task needed, in MB (10^6 bytes)."""

    def __init__(self, message: str = "the memory of the GPU was too small", *, memory_mb: Optional[int] = None) -> None:
        super().__init__(message)
        self.memory_mb = memory_mb


class InvalidPayload(ValueError):
    """A payload does not fit its kind. ``field`` names the place, as ``payload.text``."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Cancelled(BaseException):
    """Nobody waits for this task any more.

    In a handler it is raised inside a function that still runs a while after its task was cancelled, and by ``context.raise_if_cancelled()``. Like ``KeyboardInterrupt`` it is no
    ``Exception``, so that ``except Exception`` does not swallow it. Let it pass: use ``finally`` to tidy up.
    """


class ClientError(Exception):
    """The fleet could not be asked: it is away, it refused the request, or it does not know the task. ``status`` is the HTTP status, where there is one."""

    def __init__(self, message: str, *, status: Optional[int] = None, field: Optional[str] = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field


class TaskError(Exception):
    """A task ended, and did not succeed. ``reply`` is the whole reply."""

    def __init__(self, reply: dict[str, Any]) -> None:
        error = reply.get("error") or {}
        self.task_id: str = reply.get("task_id", "")
        self.code: str = error.get("code", reply.get("outcome", "unknown"))
        self.message: str = error.get("message", "the reply has no message")
        self.field: Optional[str] = error.get("field")
        self.reply = reply
        where = f" ({self.field})" if self.field else ""
        super().__init__(f"task {self.task_id}: {self.code}: {self.message}{where}")


class TaskFailed(TaskError):
    """It was refused, or its attempts were used up."""


class TaskCancelled(TaskError):
    """Somebody cancelled it."""


class TaskExpired(TaskError):
    """Its deadline passed."""
