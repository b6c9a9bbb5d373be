"""The client: what it sends, what it makes of answers, and what it does when a gateway drops it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpufleet import AsyncClient, Client, ClientError, TaskCancelled, TaskFailed
from gpufleet.client.request import Item, Part, Progress, Submission, events_of, settle
from gpufleet.frames import CONTENT_TYPE, pack, unpack
from gpufleet.values import Encoder

REPLY = {"task_id": "t", "outcome": "succeeded", "attempt": 1, "timings": {"waited_ms": 0, "run_ms": 1}, "ended_at_ms": 1}
PROBLEM = {"type": "urn:x", "title": "wrong", "status": 422, "detail": "priority: must be 0 to 9", "field": "priority"}


def framed(value):
    """A value whose bytes are segments, as a body."""
    encoder = Encoder()
    text = encoder.text(value)
    return b"".join(pack(f'{text[:-1]},"segments":{encoder.lengths()}}}', encoder.segments))


class Gateway:
    """Answers each request with what the test has laid down for its path, in turn; the last of them stays. An answer ``None`` closes the connection without a word."""

    def __init__(self, answers):
        self.asked = []
        gateway = self
        left = {path: list(each) for path, each in answers.items()}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                gateway.asked.append((self.command, self.path, dict(self.headers), body, self.client_address))
                laid = left[f"{self.command} {self.path}"]
                given = laid.pop(0) if len(laid) > 1 else laid[0]
                if given is None:
                    self.close_connection = True
                    return
                status, data, kind = given
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def json_of(value, status=200):
    return status, json.dumps(value).encode(), "application/json"


def events(*named):
    lines = (f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n" for number, (name, data) in enumerate(named, 1))
    return 200, (":\n\n" + "".join(lines)).encode(), "text/event-stream"


ACCEPTED = json_of({"task_id": "t", "status_url": "/api/v1/tasks/t"}, 202)
RUNS = json_of({"task_id": "t", "state": "running", "attempt": 1})


class OverHttp(unittest.TestCase):
    def test_a_task_is_submitted_with_its_options_and_its_reply_read(self):
        ended = json_of({"state": "succeeded", "reply": {**REPLY, "result": {"a": 1}}})
        with Gateway({"POST /api/v1/tasks": [ACCEPTED], "GET /api/v1/tasks/t": [ended]}) as gateway, Client(gateway.url) as client:
            handle = client.submit("echo", {"a": 1}, task_id="t", priority=3, group="g", delay_s=1.5, max_attempts=2, attempt_timeout_s=0.5, memory_mb=7, gpu_id="sim-0", stream=True)
            self.assertEqual((handle.result().value, handle.result().attempt), ({"a": 1}, 1))
            _method, _path, headers, body, _address = gateway.asked[0]
            self.assertEqual(json.loads(body), {
                "kind": "echo", "task_id": "t", "priority": 3, "group": "g", "delay_ms": 1500, "progress": True, "payload": {"a": 1},
                "limits": {"max_attempts": 2, "attempt_timeout_ms": 500}, "needs": {"memory_mb": 7}, "gpu_options": {"specific_gpu_id": "sim-0"},
            })  # fmt: skip
            self.assertEqual(headers["Content-Type"], "application/json")
            # One connection for all.
            self.assertEqual(len({address for *_rest, address in gateway.asked}), 1)

    def test_raw_bytes_go_and_come_as_frames(self):
        ended = (200, framed({"state": "succeeded", "reply": {**REPLY, "result": {"data": b"xyz"}}}), CONTENT_TYPE)
        told = events(("reply", {**REPLY, "result": {"data": {"$segment": 0}}}))
        answers = {"POST /api/v1/tasks": [ACCEPTED], "GET /api/v1/tasks/t": [RUNS, ended], "GET /api/v1/tasks/t/events": [told]}
        with Gateway(answers) as gateway, Client(gateway.url) as client:
            self.assertEqual(bytes(client.submit("k", {"data": b"abc"}).result().value["data"]), b"xyz")
            head, segments = unpack(gateway.asked[0][3])
            self.assertEqual((head["payload"], head["kind"], bytes(segments[0])), ({"data": {"$segment": 0}}, "k", b"abc"))
            self.assertEqual(gateway.asked[0][2]["Content-Type"], CONTENT_TYPE)
            self.assertIn(CONTENT_TYPE, gateway.asked[1][2]["Accept"])

    def test_a_stream_that_breaks_is_taken_up_where_it_broke(self):
        first = events(("progress", {"fraction": 0.5, "message": "half"}), ("partial", {"number": 1, "value": "a"}))
        second = events(("partial", {"number": 2, "value": "b"}), ("item", {"index": 0, "result": 5}), ("reply", {**REPLY, "result": "ab"}))
        answers = {"POST /api/v1/tasks": [ACCEPTED], "GET /api/v1/tasks/t/events": [first, second]}
        with Gateway(answers) as gateway, Client(gateway.url) as client:
            handle = client.submit("k", stream=True)
            self.assertEqual(list(handle.stream()), [Progress(0.5, "half"), Part(1, "a"), Part(2, "b"), Item(0, 5)])
            self.assertEqual(handle.result().value, "ab")
            self.assertEqual([asked[2].get("Last-Event-ID") for asked in gateway.asked[1:]], [None, "2"])

    def test_a_body_that_is_refused_before_its_end_is_refused_with_its_reason(self):
        listener = socket.create_server(("127.0.0.1", 0))
        text = json.dumps({**PROBLEM, "status": 413, "detail": "body: the bound is 8 bytes"}).encode()

        def refuse():
            connection, _address = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

        refusing = threading.Thread(target=refuse, daemon=True)
        refusing.start()
        with listener, Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            with self.assertRaises(ClientError) as refused:
                client.submit("k", {"data": b"x" * (64 << 20)})
            self.assertEqual((refused.exception.status, str(refused.exception)), (413, "body: the bound is 8 bytes"))
        refusing.join()

    def test_a_connection_that_was_dropped_costs_nothing(self):
        with Gateway({"POST /api/v1/tasks": [ACCEPTED, None, ACCEPTED]}) as gateway, Client(gateway.url) as client:
            client.submit("k", task_id="t")
            self.assertEqual(client.submit("k", task_id="t").task_id, "t")
            self.assertEqual(len(gateway.asked), 3)

    def test_problems_and_bad_ends_are_exceptions_with_their_data(self):
        failed = {**REPLY, "outcome": "failed", "error": {"code": "invalid_payload", "message": "no", "field": "payload.a"}}
        answers = {
            "POST /api/v1/tasks": [json_of(PROBLEM, 422), ACCEPTED],
            "GET /api/v1/tasks/t": [json_of({"reply": failed}), json_of({"reply": {**REPLY, "outcome": "cancelled"}}), json_of({"state": "succeeded"})],
            "DELETE /api/v1/tasks/t": [json_of({"task_id": "t", "was": "running"}, 202)],
        }
        with Gateway(answers) as gateway, Client(gateway.url) as client:
            with self.assertRaises(ClientError) as raised:
                client.submit("k", priority=10)
            self.assertEqual((raised.exception.status, raised.exception.field), (422, "priority"))
            with self.assertRaises(TaskFailed) as raised:
                client.submit("k").result()
            self.assertEqual((raised.exception.code, raised.exception.field), ("invalid_payload", "payload.a"))
            with self.assertRaises(TaskCancelled):
                client.handle("t").result()
            with self.assertRaisesRegex(ClientError, "no longer kept"):
                client.handle("t").result()
            self.assertEqual(client.handle("t").cancel()["was"], "running")

    def test_many_are_one_request_and_who_is_refused_is_named(self):
        answers = [{"line": 1, "task_id": "a"}, {"line": 2, "problem": PROBLEM}]
        lines = b"".join(json.dumps(each).encode() + b"\n" for each in answers)
        served = {"POST /api/v1/tasks:bulk": [(200, lines, "application/x-ndjson")], "POST /api/v1/tasks": [ACCEPTED]}
        with Gateway(served) as gateway, Client(gateway.url) as client:
            with self.assertRaisesRegex(ClientError, "1 of 3 tasks .* number 1: priority") as raised:
                client.submit_many([("k", 1), ("k", 2, {"priority": 10}), ("k", {"raw": b"a"})], group="g")
            self.assertEqual([handle and handle.task_id for handle in raised.exception.handles], ["a", None, "t"])
            sent = [json.loads(line) for line in gateway.asked[0][3].splitlines()]
            self.assertEqual([(each["payload"], each["priority"], each["group"]) for each in sent], [(1, 0, "g"), (2, 10, "g")])

    def test_asyncio_has_the_same(self):
        told = events(("partial", {"number": 1, "value": "a"}), ("reply", {**REPLY, "result": 1}))
        answers = {"POST /api/v1/tasks": [ACCEPTED], "GET /api/v1/tasks/t": [RUNS], "GET /api/v1/tasks/t/events": [told]}

        async def talk(url):
            async with AsyncClient(url) as client:
                handle = await client.submit("k", stream=True)
                return [event async for event in handle.stream()], (await handle.result()).value

        with Gateway(answers) as gateway:
            self.assertEqual(asyncio.run(talk(gateway.url)), ([Part(1, "a")], 1))

    def test_a_group_is_waited_for(self):
        goes_on, over = json_of({"ended": False}), json_of({"ended": True, "counts": {"succeeded": 2}})
        answers = {
            "GET /api/v1/groups/g": [goes_on, over],
            "GET /api/v1/groups/g/events": [events(("counts", {}))],
            "GET /api/v1/groups/g/tasks?limit=1000": [json_of({"tasks": [{"task_id": "a"}], "next": "a b"})],
            "GET /api/v1/groups/g/tasks?limit=1000&after=a%20b": [json_of({"tasks": [{"task_id": "c"}]})],
        }
        with Gateway(answers) as gateway, Client(gateway.url) as client:
            self.assertEqual(client.group("g").wait(60)["counts"], {"succeeded": 2})
            self.assertEqual([each["task_id"] for each in client.group("g").tasks()], ["a", "c"])


class Messages(unittest.TestCase):
    def test_what_is_published_has_the_tasks_body_and_headers(self):
        submission = Submission.of("k", {"a": 1}, task_id="t", group="g", stream=True, not_before=2.5, strategy="round_robin")
        self.assertEqual(json.loads(submission.message()[0]), {"payload": {"a": 1}, "gpu_options": {"strategy": "round_robin"}})
        self.assertEqual(submission.headers(), {"x-gpufleet-progress": True, "x-gpufleet-group": "g", "x-gpufleet-not-before-ms": 2500})
        body, kind = Submission.of("k", items=[1, 2], payload=None, on_error="fail").message()
        self.assertEqual((json.loads(body), kind), ({"items": [1, 2], "on_error": "fail"}, "application/json"))
        with self.assertRaisesRegex(TypeError, "items of a batch, are JSON alone"):
            Submission.of("k", None, items=[b"a"])
        with self.assertRaisesRegex(TypeError, "unknown options prio"):
            Submission.of("k", 1, prio=3)

    def test_a_batchs_results_keep_failures_in_their_places(self):
        result = settle({**REPLY, "results": [{"result": None}, {"error": {"code": "c", "message": "m"}}]})
        self.assertIsNone(result.value[0])
        self.assertEqual(result.value[1].code, "c")

    def test_progress_messages_are_told_as_events(self):
        message = {"task_id": "t", "partials": [{"number": 3, "value": 1}], "progress": {"fraction": 0.25, "message": "m"}}
        self.assertEqual(events_of(message), [Part(3, 1), Progress(0.25, "m")])
        message = {"task_id": "t", "results": [{"index": 1, "result": 9}], "items": {"done": 1, "of": 4}, "progress": {"fraction": 0.9}}
        self.assertEqual(events_of(message), [Item(1, 9), Progress(0.25)])

    def test_an_url_of_neither_is_refused(self):
        with self.assertRaisesRegex(ValueError, "amqp://"):
            Client("redis://localhost")
