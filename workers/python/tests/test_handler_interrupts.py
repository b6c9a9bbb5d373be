"""Cancel, then interrupt: in the main thread, in threads, in coroutines."""

from __future__ import annotations

import unittest

from .fake_worker import Worker


class Interrupts(unittest.TestCase):
    def stopped(self, worker, run):
        """Cancels, waits until the handler has taken note, and interrupts."""
        worker.say("cancel", run=run)
        worker.say("interrupt", run=run)
        return worker.answer(run)

    def test_a_cancel_is_seen_by_the_function_that_asks(self):
        code = """
        @task
        def polite():
            context.progress(0)
            while not context.cancelled(): pass
            context.raise_if_cancelled()
        @task
        def forever():
            while True: yield 1
        """
        with Worker(code) as worker:
            worker.hello()
            for run, kind in ((1, "polite"), (2, "forever")):
                worker.task(run, kind, None)
                worker.next("progress", "part")
                worker.say("cancel", run=run)
                answer = worker.answer(run)
                self.assertEqual((answer["code"], answer["retry"]), ("cancelled", False))

    def test_an_endless_loop_and_a_long_sleep_in_the_main_thread_are_interrupted_and_tidy_up(self):
        code = """
        import time
        tidied = []
        @task
        def loop(sleep: bool):
            context.progress(0)
            try:
                turns = 0
                while True:
                    if sleep: time.sleep(3600)
                    turns += 1
            except Exception:
                tidied.append("wrong")
            finally:
                tidied.append("tidied")
        @task
        def look(): return tidied
        """
        with Worker(code) as worker:
            worker.hello()
            for run, sleep in ((1, False), (2, True)):
                worker.task(run, "loop", {"sleep": sleep})
                worker.next("progress")
                self.assertEqual(self.stopped(worker, run)["code"], "cancelled")
            worker.task(3, "look", None)
            self.assertEqual(worker.answer(3)["result"], ["tidied", "tidied"])

    def test_an_endless_loop_in_a_thread_is_interrupted_and_its_thread_goes_on(self):
        code = """
        @task(concurrency=2)
        def loop(forever: bool):
            context.progress(0)
            while forever: pass
            return "ended"
        """
        with Worker(code) as worker:
            worker.hello()
            for run in range(0, 40, 2):
                worker.task(run, "loop", {"forever": True})
                worker.next("progress")
                self.assertEqual(self.stopped(worker, run)["code"], "cancelled")
                worker.task(run + 1, "loop", {"forever": False})
                self.assertEqual(worker.answer(run + 1)["result"], "ended")

    def test_a_coroutine_is_cancelled_at_once_where_it_waits_and_where_it_has_not_begun(self):
        code = """
        import asyncio
        tidied = []
        @task("wait", concurrency=1)
        async def wait():
            context.progress(0)
            try: await asyncio.sleep(3600)
            finally: tidied.append(1)
        @task("look", concurrency=1)
        async def look(): return tidied
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "wait", None)
            worker.next("progress")
            worker.task(2, "wait", None)
            worker.say("cancel", run=2)
            self.assertEqual(worker.answer(2)["code"], "cancelled")
            worker.say("cancel", run=1)
            self.assertEqual(worker.answer(1)["code"], "cancelled")
            worker.task(3, "look", None)
            self.assertEqual(worker.answer(3)["result"], [1])

    def test_an_interrupt_for_a_run_that_ends_just_then_never_comes_up_in_the_next(self):
        for concurrency in ("concurrency=1", "concurrency=2"):
            code = f"@task({concurrency})\ndef short(n: int):\n    for _ in range(n): pass\n    return n"
            with self.subTest(concurrency), Worker(code) as worker:
                worker.hello()
                for run in range(0, 600, 2):
                    worker.task(run, "short", {"n": run * 10})
                    worker.say("interrupt", run=run)
                    first = worker.answer(run)
                    self.assertTrue(first["type"] == "result" or "interrupted" in first["message"], first)
                    worker.task(run + 1, "short", {"n": 2000})
                    self.assertEqual(worker.answer(run + 1), {"type": "result", "run": run + 1, "result": 2000})

    def test_a_function_that_swallows_the_interrupt_holds_up_nothing(self):
        code = """
        @task(concurrency=2)
        def stubborn():
            try:
                context.progress(0)
                while True: pass
            except BaseException:
                return "swallowed"
        """
        with Worker(code) as worker:
            worker.hello()
            for run in (1, 2, 3):
                worker.task(run, "stubborn", None)
                worker.next("progress")
                self.assertEqual(self.stopped(worker, run)["result"], "swallowed")

    def test_a_run_that_waits_for_its_turn_is_answered_when_it_is_cancelled(self):
        code = """
        import threading
        go = threading.Event()
        begun = []
        @task(concurrency=1)
        def wait(n: int):
            begun.append(n)
            context.progress(0)
            go.wait()
            return begun
        @task(concurrency=2)
        def let_go(): go.set()
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "wait", {"n": 1})
            worker.next("progress")
            worker.task(2, "wait", {"n": 2})
            worker.say("cancel", run=2)
            worker.task(3, "let_go", None)
            answers = {each["run"]: each for each in (worker.next("result", "error") for _ in range(3))}
            self.assertEqual((answers[1]["result"], answers[2]["code"]), ([1], "cancelled"))

    def test_an_interrupted_batch_answers_every_member_and_only_the_cancelled_ones_as_such(self):
        code = """
        @task("loop", batch=Batch())
        def loop(n: list[int]):
            context.progress(0)
            while True: pass
        """
        with Worker(code) as worker:
            worker.hello()
            worker.batch(1, "loop", [{"n": 1}, {"n": 2}])
            worker.next("progress")
            worker.say("cancel", run=1, member=1)
            worker.say("interrupt", run=1)
            answers = worker.answers(1, 2)
            self.assertEqual((answers[0]["retry"], answers[1]["code"]), (True, "cancelled"))
