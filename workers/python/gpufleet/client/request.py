"""A task as it is submitted, and a reply as it is read: what both ways have in common."""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import TYPE_CHECKING, Any, Iterable, Optional, TypedDict, Union

from ..errors import TaskCancelled, TaskError, TaskExpired, TaskFailed
from ..frames import CONTENT_TYPE, pack, unpack
from ..values import Encoder, natural, resolve

if TYPE_CHECKING:
    from typing_extensions import Unpack

JSON = "application/json"


class Options(TypedDict, total=False):
    """What ``submit`` takes beside kind and payload. Times are in seconds."""

    #: In place of the payload: many of them, one task.
    items: list[Any]
    #: With ``items``: ``report`` (a failure is one item's) or ``fail`` (it ends all).
    on_error: str
    #: 0 (lowest, the default) to 9.
    priority: int
    #: The same id with the same payload runs once.
    task_id: str
    group: str
    delay_s: float
    #: In Unix seconds.
    not_before: float
    #: Whether ``handle.stream()`` gives progress and parts.
    stream: bool
    max_attempts: int
    attempt_timeout_s: float
    queue_deadline_s: float
    total_deadline_s: float
    memory_mb: int
    compute_capability: str
    model: str
    gpu_id: str
    strategy: str
    batch_split: bool


_SECTIONS = {
    "limits": {"max_attempts": "max_attempts", "attempt_timeout_s": "attempt_timeout_ms", "queue_deadline_s": "queue_deadline_ms", "total_deadline_s": "total_deadline_ms"},
    "needs": {"memory_mb": "memory_mb", "compute_capability": "compute_capability", "model": "model"},
    "gpu_options": {"gpu_id": "specific_gpu_id", "strategy": "strategy", "batch_split": "batch_split"},
}
_OF_THE_MESSAGE = {"task_id", "priority", "group", "delay_s", "not_before", "stream"}


@dataclasses.dataclass
class Submission:
    """A task that is to be submitted. Its payload is written once."""

    kind: str
    task_id: str
    priority: int
    group: Optional[str]
    delay_ms: Optional[int]
    not_before_ms: Optional[int]
    stream: bool
    #: The JSON text of the task's body, without the list of segments.
    text: str
    segments: list[memoryview]
    lengths: list[int]

    @staticmethod
    def of(kind: str, payload: Any, **options: Unpack[Options]) -> Submission:
        """The task with these options. ``TypeError``: one of them is unknown, or the payload cannot be written."""
        rest = {name: value for name, value in options.items() if value is not None and name not in _OF_THE_MESSAGE}
        body: dict[str, Any] = {}
        for section, names in _SECTIONS.items():
            found = {there: _milliseconds(here, rest.pop(here)) for here, there in names.items() if here in rest}
            if found:
                body[section] = found
        if "on_error" in rest:
            body["on_error"] = rest.pop("on_error")
        if "items" in rest:
            body["items"] = rest.pop("items")
        else:
            body["payload"] = payload
        if rest:
            raise TypeError(f"submit: unknown options {', '.join(sorted(rest))}; known are {', '.join(Options.__annotations__)}")
        # A batch carries no segments: arrays are lists in it, and bytes are refused here.
        encoder = Encoder(raw="items" not in body)
        text = encoder.text(body)
        delay_s, not_before = options.get("delay_s"), options.get("not_before")
        return Submission(
            kind, options.get("task_id") or str(uuid.uuid4()), options.get("priority") or 0, options.get("group"), None if delay_s is None else int(delay_s * 1000),
            None if not_before is None else int(not_before * 1000), bool(options.get("stream")), text, encoder.segments, encoder.lengths(),
        )  # fmt: skip

    def message(self) -> tuple[bytes, str]:
        """The body of an AMQP message, and its content type."""
        return self._framed({})

    def request(self) -> tuple[bytes, str]:
        """The body of a request to a gateway, and its content type."""
        fields: dict[str, Any] = {"kind": self.kind, "task_id": self.task_id, "priority": self.priority}
        for name, value in (("group", self.group), ("delay_ms", self.delay_ms), ("not_before_ms", self.not_before_ms), ("progress", self.stream or None)):
            if value is not None:
                fields[name] = value
        return self._framed(fields)

    def headers(self) -> dict[str, Any]:
        """The headers of an AMQP message."""
        headers: dict[str, Any] = {}
        if self.stream:
            headers["x-gpufleet-progress"] = True
        if self.group is not None:
            headers["x-gpufleet-group"] = self.group
        if self.delay_ms is not None:
            headers["x-gpufleet-delay-ms"] = self.delay_ms
        if self.not_before_ms is not None:
            headers["x-gpufleet-not-before-ms"] = self.not_before_ms
        return headers

    def _framed(self, fields: dict[str, Any]) -> tuple[bytes, str]:
        text = self.text
        if fields:
            text = f"{Encoder().text(fields)[:-1]},{text[1:]}"
        if not self.segments:
            return text.encode(), JSON
        buffers = pack(f'{text[:-1]},"segments":{self.lengths}}}', self.segments)
        # Both AMQP and HTTP clients want one piece: this is the one copy.
        return b"".join(buffers), CONTENT_TYPE


def _milliseconds(name: str, value: Any) -> Any:
    return int(value * 1000) if name.endswith("_s") else value


def submissions(tasks: Iterable[Any], options: Options) -> list[Submission]:
    """What ``submit_many`` was given: ``(kind, payload)``, or ``(kind, payload, options)`` each."""
    made = []
    for each in tasks:
        kind, payload, *more = each
        made.append(Submission.of(kind, payload, **{**options, **(more[0] if more else {})}))
    return made


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the task is, 0 to 1."""

    fraction: float
    message: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the output. Numbers go up by one within an attempt; a gap is what was lost on the way."""

    number: int
    value: Any


@dataclasses.dataclass(frozen=True)
class Item:
    """How one item of a task with ``items`` came out: its result, or a ``TaskFailed`` in its place."""

    index: int
    value: Any


Event = Union[Progress, Part, Item]


@dataclasses.dataclass(frozen=True)
class Result:
    """How a task succeeded. ``value`` is what its kind gave; of a task with ``items`` a list, in which a failure is a ``TaskFailed`` in its place."""

    value: Any
    task_id: str
    gpu_id: Optional[str]
    attempt: int
    timings: dict[str, Any]
    reply: dict[str, Any] = dataclasses.field(repr=False, default_factory=dict)


def read_body(body: bytes) -> Any:
    """The JSON of a body, with bytes and arrays in their places."""
    head, segments = unpack(body)
    return natural(resolve(head, segments))


_ERRORS = {"failed": TaskFailed, "cancelled": TaskCancelled, "expired": TaskExpired}


def settle(reply: dict[str, Any]) -> Result:
    """The result that a reply tells, or the ``TaskError``."""
    outcome = reply.get("outcome")
    if outcome != "succeeded":
        raise _ERRORS.get(str(outcome), TaskError)(reply)
    results = reply.get("results")
    value = reply.get("result") if results is None else [item_value(each, reply) for each in results]
    return Result(value, reply["task_id"], reply.get("gpu_id"), reply.get("attempt", 1), reply.get("timings", {}), reply)


def item_value(item: dict[str, Any], reply: dict[str, Any]) -> Any:
    """What came of one item."""
    if item.get("error") is None:
        return item.get("result")
    return TaskFailed({"task_id": reply.get("task_id", ""), "outcome": "failed", "error": item["error"]})


def events_of(message: dict[str, Any]) -> list[Event]:
    """What a progress message of the broker tells."""
    events: list[Event] = [Part(each["number"], each.get("value")) for each in message.get("partials") or ()]
    events.extend(Item(each["index"], item_value(each, message)) for each in message.get("results") or ())
    progress, items = message.get("progress"), message.get("items")
    if items is not None:
        events.append(Progress(items["done"] / max(items["of"], 1)))
    elif progress is not None:
        events.append(Progress(progress["fraction"], progress.get("message")))
    return events


class Deadline:
    """When a wait ends."""

    def __init__(self, timeout: Optional[float]) -> None:
        self._at = None if timeout is None else time.monotonic() + timeout

    def left(self) -> Optional[float]:
        """Seconds that are left, 0 or more; ``None``: no end."""
        return None if self._at is None else max(self._at - time.monotonic(), 0.0)

    def is_over(self) -> bool:
        """Whether it has passed."""
        return self.left() == 0.0
