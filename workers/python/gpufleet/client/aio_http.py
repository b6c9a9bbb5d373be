"""A gateway, for asyncio: the plain client in threads of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Iterable, Optional, TypeVar

from .handle import AsyncHandle
from .http import Group, HttpClient, HttpHandle
from .request import Event, Options, Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")

#: Requests that are answered soon, at once.
_ASKING_MAX = 8
#: Tasks that are waited for at once; further ones stand in line.
_WAITING_MAX = 64


class AsyncHttpClient:
    """As ``HttpClient``."""

    def __init__(self, url: str) -> None:
        self._client = HttpClient(url)
        # What waits for hours must not keep a submit from its turn.
        self._asking = concurrent.futures.ThreadPoolExecutor(_ASKING_MAX, thread_name_prefix="gpufleet-client")
        self._waiting = concurrent.futures.ThreadPoolExecutor(_WAITING_MAX, thread_name_prefix="gpufleet-wait")

    async def __aenter__(self) -> AsyncHttpClient:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Tasks go on."""
        self._client.close()
        self._asking.shutdown(wait=False)
        self._waiting.shutdown(wait=False)

    async def submit(self, kind: str, payload: Any = None, **options: Unpack[Options]) -> AsyncHttpHandle:
        """As ``HttpClient.submit``."""
        return AsyncHttpHandle(self, await self.ask(lambda: self._client.submit(kind, payload, **options)))

    async def submit_many(self, tasks: Iterable[Any], **options: Unpack[Options]) -> list[AsyncHttpHandle]:
        """As ``HttpClient.submit_many``."""
        listed = list(tasks)
        return [AsyncHttpHandle(self, handle) for handle in await self.ask(lambda: self._client.submit_many(listed, **options))]

    def handle(self, task_id: str) -> AsyncHttpHandle:
        """A task that somebody has submitted."""
        return AsyncHttpHandle(self, self._client.handle(task_id))

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """As ``HttpClient.cancel``."""
        return await self.ask(lambda: self._client.cancel(task_id))

    def group(self, name: str) -> AsyncGroup:
        """The tasks that were submitted with ``group=name``."""
        return AsyncGroup(self, self._client.group(name))

    async def ask(self, work: Callable[[], T]) -> T:
        """What is answered soon."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, work)

    async def wait(self, work: Callable[[], T]) -> T:
        """What may take as long as a task."""
        return await asyncio.get_running_loop().run_in_executor(self._waiting, work)


class AsyncHttpHandle(AsyncHandle):
    """As ``HttpHandle``."""

    def __init__(self, client: AsyncHttpClient, handle: HttpHandle) -> None:
        super().__init__(handle.task_id)
        self._client = client
        self._handle = handle

    async def result(self, timeout: Optional[float] = None) -> Result:
        return await self._client.wait(lambda: self._handle.result(timeout))

    async def stream(self, timeout: Optional[float] = None) -> AsyncIterator[Event]:
        events = self._handle.stream(timeout)
        try:
            while True:
                event = await self._client.wait(lambda: next(events, None))
                if event is None:
                    return
                yield event
        finally:
            events.close()  # type: ignore[attr-defined]

    async def cancel(self) -> dict[str, Any]:
        return await self._client.ask(self._handle.cancel)


class AsyncGroup:
    """As ``Group``."""

    def __init__(self, client: AsyncHttpClient, group: Group) -> None:
        self.name = group.name
        self._client = client
        self._group = group

    async def status(self) -> dict[str, Any]:
        """As ``Group.status``."""
        return await self._client.ask(self._group.status)

    async def cancel(self) -> dict[str, Any]:
        """As ``Group.cancel``."""
        return await self._client.ask(self._group.cancel)

    async def wait(self, timeout: Optional[float] = None) -> dict[str, Any]:
        """As ``Group.wait``."""
        return await self._client.wait(lambda: self._group.wait(timeout))

    async def tasks(self) -> list[dict[str, Any]]:
        """Its tasks, by id, each with its state."""
        return await self._client.ask(lambda: list(self._group.tasks()))
