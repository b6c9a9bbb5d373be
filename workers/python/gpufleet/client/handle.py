"""A task that was submitted."""

from __future__ import annotations

import abc
from typing import Any, AsyncIterator, Iterator, Optional

from .request import Event, Result


class Handle(abc.ABC):
    """A task that the fleet has."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id

    @abc.abstractmethod
    def result(self, timeout: Optional[float] = None) -> Result:
        """Waits for the end. ``TaskFailed``, ``TaskCancelled``, ``TaskExpired``: it did not succeed. ``TimeoutError``: it goes on."""

    @abc.abstractmethod
    def stream(self, timeout: Optional[float] = None) -> Iterator[Event]:
        """Progress, parts and items until the task ends; ``result`` has the rest. Only of a task that was submitted with ``stream=True``."""

    @abc.abstractmethod
    def cancel(self) -> dict[str, Any]:
        """Asks for the end; what the task was at."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"


class AsyncHandle(abc.ABC):
    """A task that the fleet has."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id

    @abc.abstractmethod
    async def result(self, timeout: Optional[float] = None) -> Result:
        """As ``Handle.result``."""

    @abc.abstractmethod
    def stream(self, timeout: Optional[float] = None) -> AsyncIterator[Event]:
        """As ``Handle.stream``."""

    @abc.abstractmethod
    async def cancel(self) -> dict[str, Any]:
        """As ``Handle.cancel``."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"
