"""Through a gateway, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Optional

from ..errors import ClientError
from ..frames import CONTENT_TYPE
from .handle import Handle
from .request import JSON, Deadline, Event, Item, Options, Part, Progress, Result, Submission, item_value, read_body, settle, submissions

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: How long a request may take, in seconds.
_REQUEST_S = 60.0
#: Connections that wait for the next request.
_IDLE_MAX = 8
#: Pauses between tries of a request that found nobody, in seconds.
_PAUSES_S = (0.1, 0.3, 1.0, 3.0)
#: Lines of one bulk request.
_BULK_LINES = 256
_ENDED = ("succeeded", "failed", "cancelled", "expired")


class HttpClient:
    """A gateway. Any number of threads may use it at once."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the URL of a gateway is http://host:port, not {url!r}")
        self._parts = parts
        self._prefix = parts.path.rstrip("/")
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Tasks go on."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def submit(self, kind: str, payload: Any = None, **options: Unpack[Options]) -> HttpHandle:
        """Submits a task. ``ClientError``: it was refused, or nobody is there."""
        return self._submit(Submission.of(kind, payload, **options))

    def submit_many(self, tasks: Iterable[Any], **options: Unpack[Options]) -> list[HttpHandle]:
        """Submits ``(kind, payload)`` or ``(kind, payload, options)`` each. ``ClientError`` names the first that was refused; its ``handles`` are those of the others."""
        handles: list[Optional[HttpHandle]] = []
        problems: list[str] = []
        made = submissions(tasks, options)
        for at in range(0, len(made), _BULK_LINES):
            self._bulk(made[at : at + _BULK_LINES], at, handles, problems)
        if problems:
            error = ClientError(f"{len(problems)} of {len(made)} tasks were refused; the first: {problems[0]}")
            error.handles = handles  # type: ignore[attr-defined]
            raise error
        return [handle for handle in handles if handle is not None]

    def handle(self, task_id: str) -> HttpHandle:
        """A task that somebody has submitted."""
        return HttpHandle(self, task_id)

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Asks for a task's end. ``ClientError`` with the status 409: it has ended."""
        return dict(self.ask("DELETE", f"/api/v1/tasks/{_quoted(task_id)}"))

    def status(self, task_id: str) -> dict[str, Any]:
        """What became of a task, with its reply once it ended."""
        return dict(self.ask("GET", f"/api/v1/tasks/{_quoted(task_id)}", accept=f"{CONTENT_TYPE}, {JSON};q=0.9"))

    def group(self, name: str) -> Group:
        """The tasks that were submitted with ``group=name``."""
        return Group(self, name)

    def _submit(self, submission: Submission) -> HttpHandle:
        body, content_type = submission.request()
        accepted = self.ask("POST", "/api/v1/tasks", body, content_type)
        return HttpHandle(self, accepted["task_id"])

    def _bulk(self, made: list[Submission], at: int, handles: list[Optional[HttpHandle]], problems: list[str]) -> None:
        """One request for what is JSON, and one each for what has raw bytes."""
        lines = [each.request()[0] for each in made if not each.segments]
        answers: Iterator[dict[str, Any]] = iter(())
        if lines:
            body = self._text("POST", "/api/v1/tasks:bulk", b"\n".join(lines) + b"\n", "application/x-ndjson")
            answers = (json.loads(line) for line in body.splitlines() if line.strip())
        for number, submission in enumerate(made, at):
            try:
                if submission.segments:
                    handles.append(self._submit(submission))
                    continue
                answer = next(answers, {"problem": {"detail": "the gateway gave no answer for it"}})
                if "problem" in answer and answer["problem"] is not None:
                    raise ClientError(answer["problem"].get("detail", "refused"))
                handles.append(HttpHandle(self, str(answer["task_id"])))
            except ClientError as error:
                handles.append(None)
                problems.append(f"number {number}: {error}")

    # Requests.

    def ask(self, method: str, path: str, body: Optional[bytes] = None, content_type: str = JSON, accept: str = JSON) -> Any:
        """A request, and its answer as a value."""
        return read_body(self._text(method, path, body, content_type, accept))

    def _text(self, method: str, path: str, body: Optional[bytes], content_type: str = JSON, accept: str = JSON) -> bytes:
        headers = {"Accept": accept, **({} if body is None else {"Content-Type": content_type})}
        connection, response = self._open(method, path, body, headers, _REQUEST_S)
        data = response.read()
        self._give_back(connection, response)
        if response.status >= 400:
            raise _problem(response.status, data)
        return data

    def _open(
        self, method: str, path: str, body: Optional[bytes], headers: dict[str, str], timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request. Every one can be sent twice without harm: tasks have their ids. So it is, where a connection has gone or nobody listens."""
        for pause_s in (*_PAUSES_S, None):
            connection = self._connection(timeout_s)
            try:
                return connection, self._asked(connection, method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if pause_s is None or isinstance(error, socket.timeout):
                    raise ClientError(f"{method} {self._parts.scheme}://{self._parts.netloc}{path}: {error or type(error).__name__}") from error
                with self._lock:
                    # What was idle beside it is as old.
                    idle, self._idle = self._idle, []
                for other in idle:
                    other.close()
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _asked(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Optional[bytes], headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, self._prefix + path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if not body:
                raise
            # Who refuses a body without reading all of it answers first, and closes then.
            response = connection.getresponse()
            response.will_close = True
            return response
        return connection.getresponse()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        with self._lock:
            if self._idle:
                connection = self._idle.pop()
                if connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                return connection
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _give_back(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        with self._lock:
            if not response.will_close and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def events(self, path: str, last_id: str, deadline: Deadline) -> Iterator[tuple[str, str, Any]]:
        """The events of a stream: name, id, data. It ends with the stream; ``TimeoutError``: with the deadline."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        # A silent stream shows every 15 s that it lives.
        connection, response = self._open("GET", path, None, headers, _REQUEST_S)
        try:
            if response.status >= 400:
                raise _problem(response.status, response.read())
            yield from _parsed(connection, response, deadline)
        finally:
            connection.close()


def _parsed(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: Deadline) -> Iterator[tuple[str, str, Any]]:
    name, number, data = "", "", ""
    while True:
        left = deadline.left()
        if left == 0.0:
            raise TimeoutError
        if connection.sock is not None and left is not None:
            connection.sock.settimeout(min(left, _REQUEST_S))
        try:
            line = response.readline()
        except socket.timeout:
            if deadline.is_over():
                raise TimeoutError from None
            return
        except (OSError, http.client.HTTPException):
            return
        if not line:
            return
        field, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            name = value
        elif field == "id":
            number = value
        elif field == "data":
            data += value
        elif not field and not value and name:
            yield name, number, json.loads(data) if data else None
            name, data = "", ""


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _problem(status: int, body: bytes) -> ClientError:
    try:
        problem = json.loads(body)
        return ClientError(str(problem.get("detail", problem)), status=status, field=problem.get("field"))
    except (ValueError, AttributeError):
        return ClientError(f"status {status}: {body[:200].decode(errors='replace')}", status=status)


class HttpHandle(Handle):
    """A task that a gateway knows."""

    def __init__(self, client: HttpClient, task_id: str) -> None:
        super().__init__(task_id)
        self._client = client
        self._reply: Optional[dict[str, Any]] = None

    def result(self, timeout: Optional[float] = None) -> Result:
        deadline = Deadline(timeout)
        while self._reply is None:
            self._look()
            if self._reply is None:
                for _event in self._follow(deadline):
                    pass
        return settle(self._reply)

    def stream(self, timeout: Optional[float] = None) -> Iterator[Event]:
        return self._follow(Deadline(timeout))

    def cancel(self) -> dict[str, Any]:
        return self._client.cancel(self.task_id)

    def status(self) -> dict[str, Any]:
        """What the fleet says of it now."""
        return self._client.status(self.task_id)

    def _look(self) -> None:
        status = self._client.status(self.task_id)
        # A frame has the reply's bytes beside it, whichever of the two the JSON is.
        reply = status if "outcome" in status else status.get("reply")
        if reply is not None:
            self._reply = reply
        elif status.get("state") in _ENDED:
            raise ClientError(f"task {self.task_id} ended ({status['state']}), and its reply is no longer kept", status=410)

    def _follow(self, deadline: Deadline) -> Iterator[Event]:
        """Events until the reply. A stream that breaks is taken up again."""
        last_id = ""
        path = f"/api/v1/tasks/{_quoted(self.task_id)}/events"
        while self._reply is None:
            try:
                for name, last_id, data in self._client.events(path, last_id, deadline):
                    if name == "partial":
                        yield Part(data["number"], data.get("value"))
                    elif name == "progress":
                        yield Progress(data["fraction"], data.get("message"))
                    elif name == "item":
                        yield Item(data["index"], item_value(data, {"task_id": self.task_id}))
                    elif name == "reply":
                        self._take(data)
                        return
            except TimeoutError:
                raise TimeoutError(f"task {self.task_id} has not ended in time; it goes on") from None

    def _take(self, reply: dict[str, Any]) -> None:
        if "$segment" in json.dumps(reply.get("result")):
            # Events are text: raw bytes come with the status.
            self._look()
        else:
            self._reply = reply


class Group:
    """Tasks that are counted, waited for and cancelled together."""

    def __init__(self, client: HttpClient, name: str) -> None:
        self.name = name
        self._client = client
        self._path = f"/api/v1/groups/{_quoted(name)}"

    def status(self) -> dict[str, Any]:
        """How many of its tasks are in which state (``counts``), and whether all have ended (``ended``)."""
        return dict(self._client.ask("GET", self._path))

    def cancel(self) -> dict[str, Any]:
        """Asks for the end of all of them."""
        return dict(self._client.ask("DELETE", self._path))

    def wait(self, timeout: Optional[float] = None) -> dict[str, Any]:
        """Waits until all have ended; the status then."""
        deadline = Deadline(timeout)
        while True:
            status = self.status()
            if status["ended"]:
                return status
            try:
                for _event in self._client.events(f"{self._path}/events", "", deadline):
                    pass
            except TimeoutError:
                raise TimeoutError(f"the tasks of group {self.name} have not ended in time; they go on") from None

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Its tasks, by id, each with its state."""
        after = ""
        while True:
            page = self._client.ask("GET", f"{self._path}/tasks?limit=1000{after}")
            yield from page["tasks"]
            if not page.get("next"):
                return
            after = f"&after={_quoted(page['next'])}"
