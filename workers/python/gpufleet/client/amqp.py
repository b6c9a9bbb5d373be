"""Over AMQP, by pika. One thread of the client's own speaks with the broker, so that heartbeats go on while the program computes."""

from __future__ import annotations

import collections
import functools
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Optional

from ..errors import ClientError
from .handle import Handle
from .request import Deadline, Event, Options, Result, Submission, events_of, read_body, settle, submissions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .http import Group, HttpClient

#: Progress messages that a handle keeps until they are read; then the oldest make room, which a gap in the parts' numbers shows.
EVENTS_MAX = 10_000
#: The longest pause between two tries to reach the broker, in seconds.
_PAUSE_MAX_S = 5.0


def _pika() -> Any:
    try:
        import pika  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise ImportError("Client(\"amqp://…\") needs pika: pip install 'gpufleet[amqp]'") from None
    return pika


class AmqpClient:
    """The broker. Any number of threads may use it at once.

    A connection that is lost is opened again, and every task without a reply is published once more, under its id: it runs no second time, and its reply comes to the new queue.
    """

    def __init__(
        self, url: str, *, pool: str = "default", prefix: str = "gpufleet", gateway: Optional[str] = None, pending_max: int = 10_000, connect_timeout: float = 30.0
    ) -> None:
        self._pika = _pika()
        self._parameters = self._pika.URLParameters(url)
        self._pool = pool
        self._exchange = f"{prefix}.tasks"
        self._prefix = prefix
        self._gateway_url = gateway
        self._gateway: Optional[HttpClient] = None
        self._room = threading.BoundedSemaphore(pending_max)
        self._pending: dict[str, AmqpHandle] = {}
        self._outgoing: collections.deque[AmqpHandle] = collections.deque()
        self._unconfirmed: dict[int, AmqpHandle] = {}
        self._tag = 0
        self._channel: Any = None
        self._connection: Any = None
        self._reply_to = ""
        self._problem = "no answer yet"
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="gpufleet-client", daemon=True)
        self._thread.start()
        if not self._ready.wait(connect_timeout):
            self.close()
            raise ClientError(f"connect to {self._parameters.host}:{self._parameters.port}: {self._problem}")

    def __enter__(self) -> AmqpClient:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Tasks go on; replies that have not come yet are not heard."""
        self._closing.set()
        connection = self._connection
        if connection is not None:
            self._in_loop(connection, functools.partial(self._end, connection))
        self._thread.join(10)
        if self._gateway is not None:
            self._gateway.close()

    def submit(self, kind: str, payload: Any = None, *, timeout: float = 30.0, **options: Unpack[Options]) -> AmqpHandle:
        """Submits a task, and waits until the broker has it on its disk. ``ClientError``: it was refused, or nobody answered within ``timeout`` seconds."""
        handle = self._publish(Submission.of(kind, payload, **options), timeout)
        handle.wait_for_confirm(timeout)
        return handle

    def submit_many(self, tasks: Iterable[Any], *, timeout: float = 30.0, **options: Unpack[Options]) -> list[AmqpHandle]:
        """Submits ``(kind, payload)`` or ``(kind, payload, options)`` each, side by side."""
        handles = [self._publish(each, timeout) for each in submissions(tasks, options)]
        for handle in handles:
            handle.wait_for_confirm(timeout)
        return handles

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Asks for a task's end, by the gateway."""
        return self._by_gateway().cancel(task_id)

    def group(self, name: str) -> Group:
        """The tasks that were submitted with ``group=name``, by the gateway."""
        return self._by_gateway().group(name)

    def _by_gateway(self) -> HttpClient:
        if self._gateway_url is None:
            raise ClientError("cancelling and groups go by a gateway: Client(amqp_url, gateway='http://host:port')")
        if self._gateway is None:
            from .http import HttpClient

            self._gateway = HttpClient(self._gateway_url)
        return self._gateway

    def _publish(self, submission: Submission, timeout: float) -> AmqpHandle:
        handle = AmqpHandle(self, submission)
        if not self._room.acquire(timeout=timeout):
            raise ClientError("as many tasks as may be (pending_max) wait for their replies")
        self._pending[handle.correlation_id] = handle
        self._outgoing.append(handle)
        connection = self._connection
        if connection is not None:
            self._in_loop(connection, self._flush)
        return handle

    def _forget(self, handle: AmqpHandle) -> None:
        if self._pending.pop(handle.correlation_id, None) is not None:
            self._room.release()

    @staticmethod
    def _in_loop(connection: Any, work: Any) -> None:
        try:
            connection.ioloop.add_callback_threadsafe(work)
        except Exception:  # noqa: S110
            # The loop has ended. The next connection publishes all that is pending.
            pass

    # The client's own thread.

    def _serve(self) -> None:
        pause_s = 0.1
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                connection = self._pika.SelectConnection(self._parameters, self._opened, self._not_opened, self._closed)
                self._connection = connection
                connection.ioloop.start()
            except Exception as error:
                self._problem = str(error) or type(error).__name__
            self._channel, self._connection = None, None
            pause_s = 0.1 if time.monotonic() - began > 2 * _PAUSE_MAX_S else min(pause_s * 2, _PAUSE_MAX_S)
            self._closing.wait(pause_s)

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._channel_opened)

    def _not_opened(self, connection: Any, error: Any) -> None:
        self._problem = repr(error)
        connection.ioloop.stop()

    def _closed(self, connection: Any, reason: Any) -> None:
        self._problem = repr(reason)
        self._channel = None
        connection.ioloop.stop()

    def _channel_opened(self, channel: Any) -> None:
        self._tag = 0
        self._unconfirmed.clear()
        # A name of its own for each connection: the broker may not have missed the last one yet.
        self._reply_to = f"{self._prefix}.reply.{uuid.uuid4().hex}"
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed)
        channel.queue_declare(self._reply_to, exclusive=True, auto_delete=True, callback=lambda _frame: self._declared(channel))

    def _channel_closed(self, channel: Any, reason: Any) -> None:
        self._problem = repr(reason)
        self._channel = None
        if channel.connection.is_open:
            channel.connection.close()

    def _declared(self, channel: Any) -> None:
        channel.basic_consume(self._reply_to, self._came, auto_ack=True, callback=lambda _frame: self._consuming(channel))

    def _consuming(self, channel: Any) -> None:
        self._channel = channel
        self._outgoing.clear()
        for handle in list(self._pending.values()):
            self._send(channel, handle)
        self._ready.set()

    def _flush(self) -> None:
        channel = self._channel
        while channel is not None and channel.is_open and self._outgoing:
            self._send(channel, self._outgoing.popleft())

    def _send(self, channel: Any, handle: AmqpHandle) -> None:
        submission = handle.submission
        properties = self._pika.BasicProperties(
            type=submission.kind, message_id=submission.task_id, correlation_id=handle.correlation_id, reply_to=self._reply_to, priority=submission.priority,
            content_type=handle.content_type, headers=submission.headers(), delivery_mode=2, timestamp=handle.published_s,
        )  # fmt: skip
        self._tag += 1
        self._unconfirmed[self._tag] = handle
        channel.basic_publish(self._exchange, self._pool, handle.body, properties, mandatory=True)

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for tag in tags:
            handle = self._unconfirmed.pop(tag, None)
            if handle is None:
                continue
            if method.NAME == "Basic.Ack":
                handle.confirmed()
            else:
                handle.refused(f"the broker refused task {handle.task_id}: the pool's queue is full")

    def _returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        handle = self._pending.get(properties.correlation_id)
        if handle is not None:
            handle.refused(f"the broker knows no pool {self._pool}: {method.reply_text}")

    def _came(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        handle = self._pending.get(properties.correlation_id)
        if handle is None:
            return
        try:
            message = read_body(body)
        except ValueError as error:
            handle.refused(f"the reply to task {handle.task_id} cannot be read: {error}")
            return
        if properties.type == "progress":
            handle.came(message)
        else:
            self._forget(handle)
            handle.ended(message)

    def _end(self, connection: Any) -> None:
        if connection.is_open:
            connection.close()
        else:
            connection.ioloop.stop()


class AmqpHandle(Handle):
    """A task that was published."""

    def __init__(self, client: AmqpClient, submission: Submission) -> None:
        super().__init__(submission.task_id)
        self._client = client
        self.submission = submission
        self.correlation_id = uuid.uuid4().hex
        self.body, self.content_type = submission.message()
        self.published_s = int(time.time())
        self._state = threading.Condition()
        self._is_confirmed = False
        self._problem: Optional[str] = None
        self._reply: Optional[dict[str, Any]] = None
        self._token = 0
        self._events: collections.deque[Event] = collections.deque(maxlen=EVENTS_MAX)

    def wait_for_confirm(self, timeout: float) -> None:
        """Waits until the broker has the task."""
        with self._state:
            told = self._state.wait_for(lambda: self._is_confirmed or self._problem or self._reply, timeout)
        if not told:
            self._client._forget(self)
            raise ClientError(f"the broker has not confirmed task {self.task_id} in time ({self._client._problem}); it may have it")
        if self._problem is not None:
            raise ClientError(self._problem)

    def result(self, timeout: Optional[float] = None) -> Result:
        with self._state:
            ended = self._state.wait_for(lambda: self._reply is not None or self._problem is not None, timeout)
        if not ended:
            raise TimeoutError(f"task {self.task_id} has not ended in time; it goes on")
        if self._reply is None:
            raise ClientError(str(self._problem))
        return settle(self._reply)

    def stream(self, timeout: Optional[float] = None) -> Iterator[Event]:
        if not self.submission.stream:
            raise ClientError("nobody asked for progress and parts: submit(…, stream=True)")
        deadline = Deadline(timeout)
        while True:
            with self._state:
                told = self._state.wait_for(lambda: self._events or self._reply is not None or self._problem is not None, deadline.left())
                event = self._events.popleft() if self._events else None
            if event is not None:
                yield event
            elif told:
                return
            else:
                raise TimeoutError(f"task {self.task_id} has not ended in time; it goes on")

    def cancel(self) -> dict[str, Any]:
        return self._client.cancel(self.task_id)

    def done(self) -> bool:
        """Whether its reply has come."""
        return self._reply is not None

    # Called by the client's thread.

    def confirmed(self) -> None:
        """The broker has it."""
        with self._state:
            self._is_confirmed = True
            self._state.notify_all()

    def refused(self, problem: str) -> None:
        """Nobody will answer it."""
        self._client._forget(self)
        with self._state:
            self._problem = problem
            self._state.notify_all()

    def came(self, message: dict[str, Any]) -> None:
        """A progress message. What an earlier attempt still says is passed over; slices of a batch have tokens of their own."""
        with self._state:
            if message.get("slice") is None:
                if message["token"] < self._token:
                    return
                self._token = message["token"]
            self._events.extend(events_of(message))
            self._state.notify_all()

    def ended(self, reply: dict[str, Any]) -> None:
        """The reply."""
        with self._state:
            self._reply = reply
            self._state.notify_all()


__all__ = ["AmqpClient", "AmqpHandle"]
