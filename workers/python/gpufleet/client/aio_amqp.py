"""Over AMQP for asyncio, by aio-pika."""

from __future__ import annotations

import asyncio
import collections
import datetime
import uuid
from typing import TYPE_CHECKING, Any, AsyncIterator, Iterable, Optional

from ..errors import ClientError
from .aio_http import AsyncGroup, AsyncHttpClient
from .amqp import EVENTS_MAX
from .handle import AsyncHandle
from .request import Deadline, Event, Options, Result, Submission, events_of, read_body, settle, submissions

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _aio_pika() -> Any:
    try:
        import aio_pika  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ImportError("AsyncClient(\"amqp://…\") needs aio-pika: pip install 'gpufleet[aio]'") from None
    return aio_pika


class AsyncAmqpClient:
    """The broker, in one event loop. A connection that is lost is opened again, and every task without a reply is published once more, under its id."""

    def __init__(self, url: str, *, pool: str = "default", prefix: str = "gpufleet", gateway: Optional[str] = None, pending_max: int = 10_000) -> None:
        self._aio_pika = _aio_pika()
        self._url = url
        self._pool = pool
        self._prefix = prefix
        self._gateway = None if gateway is None else AsyncHttpClient(gateway)
        self._room = asyncio.Semaphore(pending_max)
        self._pending: dict[str, AsyncAmqpHandle] = {}
        self._connection: Any = None
        self._exchange: Any = None
        self._queue: Any = None

    async def __aenter__(self) -> AsyncAmqpClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def connect(self) -> None:
        """Opens the connection, unless it is open."""
        if self._connection is not None:
            return
        self._connection = await self._aio_pika.connect_robust(self._url)
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._queue = await channel.declare_queue(f"{self._prefix}.reply.{uuid.uuid4().hex}", exclusive=True, auto_delete=True)
        await self._queue.consume(self._came, no_ack=True)
        self._exchange = await channel.get_exchange(f"{self._prefix}.tasks", ensure=False)
        self._connection.reconnect_callbacks.add(self._again)

    async def close(self) -> None:
        """Closes the connection. Tasks go on; replies that have not come yet are not heard."""
        if self._connection is not None:
            await self._connection.close()
        if self._gateway is not None:
            await self._gateway.close()

    async def submit(self, kind: str, payload: Any = None, *, timeout: float = 30.0, **options: Unpack[Options]) -> AsyncAmqpHandle:
        """Submits a task, and waits until the broker has it on its disk."""
        return await self._submit(Submission.of(kind, payload, **options), timeout)

    async def submit_many(self, tasks: Iterable[Any], *, timeout: float = 30.0, **options: Unpack[Options]) -> list[AsyncAmqpHandle]:
        """Submits ``(kind, payload)`` or ``(kind, payload, options)`` each, side by side."""
        return list(await asyncio.gather(*(self._submit(each, timeout) for each in submissions(tasks, options))))

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """Asks for a task's end, by the gateway."""
        return await self._by_gateway().cancel(task_id)

    def group(self, name: str) -> AsyncGroup:
        """The tasks that were submitted with ``group=name``, by the gateway."""
        return self._by_gateway().group(name)

    def _by_gateway(self) -> AsyncHttpClient:
        if self._gateway is None:
            raise ClientError("cancelling and groups go by a gateway: AsyncClient(amqp_url, gateway='http://host:port')")
        return self._gateway

    async def _submit(self, submission: Submission, timeout: float) -> AsyncAmqpHandle:
        await self.connect()
        await self._room.acquire()
        handle = AsyncAmqpHandle(self, submission)
        self._pending[handle.correlation_id] = handle
        try:
            await self._publish(handle, timeout)
        except (self._aio_pika.exceptions.AMQPError, asyncio.TimeoutError) as error:
            self._forget(handle)
            raise ClientError(f"publish task {handle.task_id}: {error or type(error).__name__}") from error
        except BaseException:
            self._forget(handle)
            raise
        return handle

    async def _publish(self, handle: AsyncAmqpHandle, timeout: float) -> None:
        submission = handle.submission
        message = self._aio_pika.Message(
            handle.body, type=submission.kind, message_id=submission.task_id, correlation_id=handle.correlation_id, reply_to=self._queue.name, priority=submission.priority,
            content_type=handle.content_type, headers=submission.headers(), delivery_mode=self._aio_pika.DeliveryMode.PERSISTENT, timestamp=handle.published,
        )  # fmt: skip
        await self._exchange.publish(message, self._pool, mandatory=True, timeout=timeout)

    async def _again(self, *_: Any) -> None:
        for handle in list(self._pending.values()):
            await self._publish(handle, 30.0)

    def _forget(self, handle: AsyncAmqpHandle) -> None:
        if self._pending.pop(handle.correlation_id, None) is not None:
            self._room.release()

    async def _came(self, message: Any) -> None:
        handle = self._pending.get(message.correlation_id)
        if handle is None:
            return
        try:
            body = read_body(message.body)
        except ValueError as error:
            self._forget(handle)
            handle.ended(ClientError(f"the reply to task {handle.task_id} cannot be read: {error}"))
            return
        if message.type == "progress":
            handle.came(body)
        else:
            self._forget(handle)
            handle.ended(body)


class AsyncAmqpHandle(AsyncHandle):
    """A task that was published."""

    def __init__(self, client: AsyncAmqpClient, submission: Submission) -> None:
        super().__init__(submission.task_id)
        self._client = client
        self.submission = submission
        self.correlation_id = uuid.uuid4().hex
        self.body, self.content_type = submission.message()
        self.published = datetime.datetime.now(datetime.timezone.utc)
        self._changed = asyncio.Event()
        self._token = 0
        self._events: collections.deque[Event] = collections.deque(maxlen=EVENTS_MAX)
        self._outcome: Any = None

    async def result(self, timeout: Optional[float] = None) -> Result:
        deadline = Deadline(timeout)
        while self._outcome is None:
            await self._next_change(deadline)
        if isinstance(self._outcome, ClientError):
            raise self._outcome
        return settle(self._outcome)

    async def stream(self, timeout: Optional[float] = None) -> AsyncIterator[Event]:
        if not self.submission.stream:
            raise ClientError("nobody asked for progress and parts: submit(…, stream=True)")
        deadline = Deadline(timeout)
        while True:
            while self._events:
                yield self._events.popleft()
            if self._outcome is not None:
                return
            await self._next_change(deadline)

    async def cancel(self) -> dict[str, Any]:
        return await self._client.cancel(self.task_id)

    async def _next_change(self, deadline: Deadline) -> None:
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), deadline.left())
        except asyncio.TimeoutError:
            raise TimeoutError(f"task {self.task_id} has not ended in time; it goes on") from None

    def _tell(self) -> None:
        # Everybody who waits is told, and who comes later waits for the next.
        self._changed.set()
        self._changed = asyncio.Event()

    def came(self, message: dict[str, Any]) -> None:
        """A progress message. What an earlier attempt still says is passed over; slices of a batch have tokens of their own."""
        if message.get("slice") is None:
            if message["token"] < self._token:
                return
            self._token = message["token"]
        self._events.extend(events_of(message))
        self._tell()

    def ended(self, outcome: Any) -> None:
        """The reply, or why there is none."""
        self._outcome = outcome
        self._tell()
