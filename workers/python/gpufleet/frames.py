"""Frames: a JSON object and raw bytes in one message (``schemas/frame.md``)."""

from __future__ import annotations

import array
import collections
import json
import os
import socket
import struct
from typing import Any, Optional, Union

#: The content type of a frame.
CONTENT_TYPE = "application/x-gpufleet-frame"
#: The longest JSON of a frame, in bytes.
JSON_BYTES_MAX = (1 << 24) - 1
#: Segments of one frame at most.
SEGMENTS_MAX = 1024
#: The longest message between a handler and its worker, in bytes.
MESSAGE_BYTES_MAX = 64 << 20

#: File descriptors of one message at most: what Linux takes in one call.
DESCRIPTORS_MAX = 253

#: What is read at once where more is not known to come.
_BUFFER_BYTES = 1 << 16
#: What comes is not left to programs that this one starts. Only Linux can be told so at once; elsewhere no worker runs.
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: What the socket takes in one call (IOV_MAX is at least 1,024 on Linux).
_BUFFERS_AT_ONCE = 512

Buffer = Union[bytes, bytearray, memoryview]


class FrameError(ValueError):
    """A frame is cut off, or its list of segments and its bytes disagree."""


class Ended(Exception):
    """The other side closed the socket."""


def pack(text: str, segments: list[memoryview]) -> list[Buffer]:
    """The buffers of a frame. ``text`` is its JSON object, in which the list of lengths stands already."""
    body = text.encode()
    if len(body) > JSON_BYTES_MAX:
        raise FrameError(f"the message has {len(body)} bytes of JSON, and a frame takes at most {JSON_BYTES_MAX}: give large values as bytes or arrays")
    if len(segments) > SEGMENTS_MAX:
        raise FrameError(f"the message has {len(segments)} arrays or pieces of bytes, and a frame carries at most {SEGMENTS_MAX}")
    buffers: list[Buffer] = [struct.pack(">I", len(body)) + body]
    buffers.extend(segment for segment in segments if segment.nbytes)
    return buffers


def size(buffers: list[Buffer]) -> int:
    """What buffers have together, in bytes."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def is_frame(body: Buffer) -> bool:
    """Whether a body is a frame, and not JSON: a frame begins with a zero byte, which no JSON does."""
    return len(body) > 0 and body[0] == 0


def unpack(body: Buffer) -> tuple[Any, list[memoryview]]:
    """The JSON value of a body and its segments, which are parts of ``body``; a body that is no frame is JSON alone."""
    if not is_frame(body):
        return json.loads(bytes(body)), []
    view = memoryview(body)
    if len(view) < 4:
        raise FrameError(f"a frame of {len(view)} bytes: it begins with the length of its JSON in 4 bytes")
    (length,) = struct.unpack(">I", view[:4])
    if 4 + length > len(view):
        raise FrameError(f"a frame whose JSON has {length} bytes, and only {len(view) - 4} bytes follow")
    head = json.loads(bytes(view[4 : 4 + length]))
    lengths = _lengths(head)
    if 4 + length + sum(lengths) != len(view):
        raise FrameError(f"a frame whose segments have {sum(lengths)} bytes, and {len(view) - 4 - length} bytes follow its JSON")
    segments, at = [], 4 + length
    for each in lengths:
        segments.append(view[at : at + each])
        at += each
    return head, segments


def _lengths(head: Any) -> list[int]:
    if not isinstance(head, dict):
        raise FrameError("the JSON of a frame must be an object")
    lengths = head.get("segments", [])
    if not isinstance(lengths, list) or not all(type(each) is int and each >= 0 for each in lengths):
        raise FrameError("`segments` must be a list of lengths in bytes")
    if len(lengths) > SEGMENTS_MAX:
        raise FrameError(f"a frame with {len(lengths)} segments; it carries at most {SEGMENTS_MAX}")
    return lengths


class Reader:
    """Reads the messages of a socket. Each segment has memory of its own, so that arrays on it are aligned and may be written to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        self._space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
        #: In the order in which they came. A message's come with its first byte: before the end of it, and after those of the message before.
        self._descriptors: collections.deque[int] = collections.deque()

    def next(self) -> tuple[dict[str, Any], list[memoryview]]:
        """The next message. ``Ended``: the socket's end."""
        (length,) = struct.unpack(">I", self._exactly(4))
        if length > JSON_BYTES_MAX:
            raise FrameError(f"a message whose JSON has {length} bytes; it has at most {JSON_BYTES_MAX}")
        head = json.loads(self._exactly(length))
        lengths = _lengths(head)
        if length + sum(lengths) > MESSAGE_BYTES_MAX:
            raise FrameError(f"a message of {length + sum(lengths)} bytes; it has at most {MESSAGE_BYTES_MAX}")
        return head, [memoryview(self._exactly(each)) for each in lengths]

    def descriptors(self, head: dict[str, Any]) -> list[int]:
        """The file descriptors that came with the message that was read last. They are the caller's."""
        count = head.get("descriptors", 0)
        if type(count) is not int or not 0 <= count <= len(self._descriptors):
            raise FrameError(f"a message with {count!r} file descriptors, of which {len(self._descriptors)} came")
        return [self._descriptors.popleft() for _ in range(count)]

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view, filled = memoryview(data), 0
        while filled < count:
            if self._start == self._end and count - filled >= _BUFFER_BYTES:
                filled += self._receive(view[filled:])
                continue
            if self._start == self._end:
                self._start, self._end = 0, self._receive(self._buffer)
            part = min(count - filled, self._end - self._start)
            view[filled : filled + part] = self._buffer[self._start : self._start + part]
            self._start += part
            filled += part
        return data

    def _receive(self, into: memoryview) -> int:
        """Reads what is there, and takes what came with it. A plain read would close the descriptors without a word."""
        count, beside, flags, _address = self._connection.recvmsg_into([into], self._space, _CLOSE_ON_EXEC)
        for level, kind, data in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                came = array.array("i")
                came.frombytes(data[: len(data) - len(data) % came.itemsize])
                self._descriptors.extend(came)
        if flags & socket.MSG_CTRUNC:
            raise FrameError("not all file descriptors of a message could be taken: this process has too many open (ulimit -n)")
        if not count:
            raise Ended
        return count


def send(connection: socket.socket, buffers: list[Buffer]) -> None:
    """Writes the buffers to a socket, as they are: nothing is joined or copied."""
    if len(buffers) == 1:
        connection.sendall(buffers[0])
        return
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    at = 0
    while at < len(views):
        sent = connection.sendmsg(views[at : at + _BUFFERS_AT_ONCE])
        while at < len(views) and sent >= len(views[at]):
            sent -= len(views[at])
            at += 1
        if sent:
            views[at] = views[at][sent:]


def inherited_socket(variable: str = "GPUFLEET_HANDLER_FD") -> Optional[socket.socket]:
    """The socket that a worker left to this process. Close-on-exec from here on: what the process starts itself must not hold it. ``None``: no worker started it."""
    text = os.environ.pop(variable, None)
    if text is None:
        return None
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=descriptor)
