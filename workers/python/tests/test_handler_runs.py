"""Single tasks: payloads, answers, failures, streams, output."""

from __future__ import annotations

import array
import unittest

from .fake_worker import Worker

FAILING = """
import sys
@task
def fail(how: str):
    if how == "retry": raise Retry("busy", after_s=2.5)
    if how == "fail": raise Fail("no such model", code="no_model", field="how")
    if how == "memory": raise OutOfMemory("too large", memory_mb=900)
    if how == "host": raise MemoryError("all gone")
    if how == "torch":
        class OutOfMemoryError(RuntimeError): pass
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate")
    if how == "exit": sys.exit(3)
    if how == "interrupt": raise KeyboardInterrupt
    if how == "result": return object()
    if how == "nan": return float("nan")
    if how == "large": return bytes(65 << 20)
    if how == "half": return "\\ud800"
    if how == "told half": raise Fail("\\ud800", code=7, field="\\ud800")
    if how == "unreadable":
        class Unreadable(Retry):
            def __str__(self): raise RuntimeError
        raise Unreadable()
    if how == "negative": raise OutOfMemory(memory_mb=-3)
    if how == "long": raise ValueError("a" * 3000 + "b" * 3000)
    if how == "chain":
        try: 1/0
        except ZeroDivisionError as e: raise LookupError("not there") from e
    return deeper()
def deeper():
    raise RuntimeError("as asked")
"""


class Answers(unittest.TestCase):
    def failed(self, worker, run, how):
        worker.task(run, "fail", {"how": how})
        answer = worker.answer(run)
        self.assertEqual(answer["type"], "error", answer)
        return answer

    def test_each_way_to_fail_is_told_and_the_process_goes_on(self):
        with Worker(FAILING) as worker:
            worker.hello()
            expected = {
                "retry": {"message": "busy", "retry": True, "retry_after_ms": 2500},
                "fail": {"message": "no such model", "code": "no_model", "retry": False, "field": "payload.how"},
                "memory": {"message": "too large", "out_of_memory": True, "memory_mb": 900},
                "host": {"message": "all gone", "out_of_memory": True},
                "torch": {"message": "CUDA out of memory. Tried to allocate", "out_of_memory": True},
            }
            for run, (how, fields) in enumerate(expected.items()):
                self.assertEqual(self.failed(worker, run, how), {"type": "error", "run": run, **fields})
            says = {
                "exit": "sys.exit(3)", "interrupt": "KeyboardInterrupt", "result": "builtins.object cannot be written as JSON", "nan": "NaN or infinite",
                "large": "a message has at most 67108864", "chain": "caused by ZeroDivisionError",
            }  # fmt: skip
            for run, (how, words) in enumerate(says.items(), 10):
                self.assertIn(words, self.failed(worker, run, how)["message"])
            self.assertEqual(worker.drained(), 0)

    def test_no_exception_is_so_strange_that_it_breaks_the_runtime(self):
        with Worker(FAILING) as worker:
            worker.hello()
            self.assertIn("cannot be sent", self.failed(worker, 1, "half")["message"])
            self.assertEqual(self.failed(worker, 2, "told half"), {"type": "error", "run": 2, "message": "?", "code": "7", "retry": False, "field": "payload.?"})
            self.assertIn("cannot be shown", self.failed(worker, 3, "unreadable")["message"])
            self.assertEqual(self.failed(worker, 4, "negative")["memory_mb"], 0)
            self.assertEqual(self.failed(worker, 5, "other")["retry"], True)

    def test_an_exception_is_told_with_the_users_own_lines_and_within_bounds(self):
        with Worker(FAILING) as worker:
            worker.hello()
            message = self.failed(worker, 1, "other")["message"]
            self.assertTrue(message.startswith("RuntimeError: as asked\n"), message)
            self.assertIn('raise RuntimeError("as asked")', message)
            self.assertIn("in deeper", message)
            self.assertNotIn("calls.py", message)
            message = self.failed(worker, 2, "long")["message"]
            self.assertLessEqual(len(message.encode()), 4096)
            self.assertIn("in fail", message)

    def test_a_payload_that_does_not_fit_names_the_field(self):
        with Worker("@task\ndef f(text: str, sizes: list[int] = []): return text") as worker:
            worker.hello()
            for run, (payload, field) in enumerate([({"text": 1}, "payload.text"), ({"text": "a", "sizes": [1, "b"]}, "payload.sizes[1]"), ([], "payload"), ({}, "payload.text")]):
                worker.task(run, "f", payload)
                answer = worker.answer(run)
                self.assertEqual((answer["code"], answer["retry"], answer["field"]), ("invalid_payload", False, field))

    def test_bytes_and_arrays_come_and_go_without_base64(self):
        code = """
        @task
        def turn(data: bytearray, more: memoryview):
            data.reverse()
            return {"data": data, "more": more, "empty": b""}
        """
        with Worker(code) as worker:
            worker.hello()
            large = bytes(range(256)) * 8192
            worker.task(1, "turn", {"data": large, "more": b"abc"})
            result = worker.answer(1)["result"]
            self.assertEqual((bytes(result["data"]), bytes(result["more"]), bytes(result["empty"])), (large[::-1], b"abc", b""))

    def test_arrays_of_the_standard_library_are_numbers(self):
        with Worker("import array\n@task\ndef halves(): return array.array('f', [0.5, 1.5])") as worker:
            worker.hello()
            worker.task(1, "halves", None)
            self.assertEqual(list(array.array("f", worker.answer(1)["result"].tobytes())), [0.5, 1.5])

    def test_progress_and_parts_come_before_the_result_in_order(self):
        code = """
        @task
        def count(to: int, context: Context):
            for n in range(to):
                context.progress(n / to, f"at {n}")
                yield n
            context.part("last")
        @task
        def told():
            yield "a"
            return "whole"
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "count", {"to": 2})
            came = [worker.next() for _ in range(6)]
            run = {"run": 1}
            self.assertEqual(came, [
                {"type": "progress", "fraction": 0.0, "message": "at 0", **run}, {"type": "part", **run, "value": 0},
                {"type": "progress", "fraction": 0.5, "message": "at 1", **run}, {"type": "part", **run, "value": 1},
                {"type": "part", **run, "value": "last"}, {"type": "result", **run, "result": [0, 1]},
            ])  # fmt: skip
            worker.task(2, "count", {"to": 1}, wants_parts=False)
            self.assertEqual([worker.next()["type"], worker.next()], ["progress", {"type": "result", "run": 2, "result": [0]}])
            worker.task(3, "told", None)
            self.assertEqual([worker.next()["value"], worker.next()["result"]], ["a", "whole"])

    def test_async_functions_and_generators_run_side_by_side(self):
        code = """
        import asyncio
        met = asyncio.Event()
        @task("meet", concurrency=2)
        async def meet(first: bool):
            if first: await met.wait()
            else: met.set()
            return context.task_id
        @task(concurrency=2)
        async def numbers(to: int):
            for n in range(to):
                await asyncio.sleep(0)
                yield n
        """
        with Worker(code) as worker:
            self.assertEqual(worker.hello()["concurrency"], 2)
            worker.task(1, "meet", {"first": True})
            worker.task(2, "meet", {"first": False})
            self.assertEqual({each["run"]: each["result"] for each in (worker.next("result"), worker.next("result"))}, {1: "t1", 2: "t2"})
            worker.task(3, "numbers", {"to": 2})
            self.assertEqual([worker.next()["value"], worker.next()["value"], worker.next()["result"]], [0, 1, [0, 1]])

    def test_plain_functions_run_in_the_main_thread_and_side_by_side_where_more_come(self):
        code = """
        import threading
        barrier = threading.Barrier(2)
        @task
        def where(): return threading.current_thread() is threading.main_thread()
        @task
        def meet():
            barrier.wait()
            return context.task_id
        """
        with Worker(code) as worker:
            worker.hello()
            # Also the next one, which comes at the very moment of an answer.
            for run in range(100, 300):
                worker.task(run, "where", None)
                self.assertIs(worker.answer(run)["result"], True)
            # The worker is configured with two at once.
            worker.task(2, "meet", None)
            worker.task(3, "meet", None)
            self.assertEqual({worker.next("result")["result"], worker.next("result")["result"]}, {"t2", "t3"})

    def test_kinds_of_one_at_a_time_wait_in_line(self):
        code = """
        running = []
        @task(concurrency=1)
        def alone():
            running.append(1)
            try: return len(running)
            finally: running.pop()
        @task(concurrency=8)
        def many(): return 0
        """
        with Worker(code) as worker:
            self.assertEqual(worker.hello()["concurrency"], 8)
            for run in range(8):
                worker.task(run, "alone", None)
            self.assertEqual([worker.answer(run)["result"] for run in range(8)], [1] * 8)

    def test_what_a_task_writes_is_told_with_its_run_however_short_it_is(self):
        code = """
        import logging, sys, threading
        logging.basicConfig(level="INFO", format="%(message)s")
        barrier = threading.Barrier(2)
        @task
        def alone(): print("alone")
        @task(concurrency=2)
        def together():
            barrier.wait()
            print("from", context.task_id)
            logging.info("logged " + context.task_id)
            sys.stdout.write("x" * 20000)
            barrier.wait()
        print("imported")
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "alone", None)
            self.assertEqual(worker.next(), {"type": "log", "message": "alone", "run": 1})
            worker.answer(1)
            worker.task(2, "together", None)
            worker.task(3, "together", None)
            said = {2: [], 3: []}
            ended = 0
            while ended < 2:
                came = worker.next("log", "result")
                if came["type"] == "result":
                    ended += 1
                else:
                    said[came["run"]].append(came["message"])
            for run in (2, 3):
                self.assertEqual(said[run][:2], [f"from t{run}", f"logged t{run}"])
                self.assertLessEqual(max(map(len, said[run])), 8192)
            worker.drained()
            self.assertEqual(worker.output(), "imported\n")

    def test_what_is_logged_at_info_is_told_once_where_nobody_configures_logging(self):
        code = """
        import logging
        logger = logging.getLogger("mine")
        @task
        def work():
            logger.debug("not this")
            logger.info("this")
            logger.warning("and this")
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "work", None)
            said = [worker.next()["message"] for _ in range(2)]
            self.assertEqual(said, ["INFO mine: this", "WARNING mine: and this"])
            self.assertEqual(worker.next()["type"], "result")

    def test_what_a_task_prints_just_before_it_crashes_is_told(self):
        code = """
        import os
        @task
        def leave():
            print("the last words")
            os._exit(7)
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "leave", None)
            self.assertEqual(worker.next()["message"], "the last words")
            self.assertEqual(worker.ended(), 7)

    def test_a_flood_of_parts_waits_for_its_worker_and_loses_nothing(self):
        with Worker("@task\ndef flood(many: int):\n    for n in range(many): yield [n] * 50") as worker:
            worker.hello()
            worker.task(1, "flood", {"many": 20000})
            numbers = [worker.next("part")["value"][0] for _ in range(20000)]
            self.assertEqual(numbers, list(range(20000)))
            self.assertEqual(len(worker.answer(1)["result"]), 20000)

    def test_a_thread_that_a_task_left_behind_says_nothing_in_a_later_run(self):
        code = """
        import threading
        held = {}
        @task
        def leave(context: Context):
            held["c"] = context
            return 1
        @task
        def speak():
            held["c"].progress(0.9)
            held["c"].part("late")
            return 2
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "leave", None)
            self.assertEqual(worker.next(), {"type": "result", "run": 1, "result": 1})
            worker.task(2, "speak", None)
            self.assertEqual(worker.next(), {"type": "result", "run": 2, "result": 2})
