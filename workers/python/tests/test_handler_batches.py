"""Run batches: lists in, lists out, and one member's trouble is its own."""

from __future__ import annotations

import unittest

from .fake_worker import Worker

CODE = """
calls = []
@task("up", batch=Batch(largest=8, wait_ms=3))
def up(text: list[str]) -> list[str]:
    if "wrong" in text: return text[1:]
    if "none" in text: return None
    if "raise" in text: raise RuntimeError("all of them")
    return [ValueError("not this one") if each == "bad" else each.upper() for each in text]

def length(text):
    return len(text) if text != "unmeasured" else 1 / 0

@task("sized", batch=Batch(largest=8, size_max=10, size_of=length))
def sized(text: list[str]) -> list[int]:
    return [len(text)] * len(text)

@task("stream", batch=Batch(largest=4))
def stream(n: list[int]):
    for at in range(max(n)):
        yield [at if at < each else None for each in n] if at != 7 else [at]
    if n[0] == 1: return ["whole"] * len(n)

@task("raw", batch=Batch())
async def raw(payloads: list[dict], both: Context):
    both.progress(0.5)
    return [[each, both.members[place].task_id] for place, each in enumerate(payloads)]
"""


class Batches(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.worker = Worker(CODE).__enter__()
        cls.addClassCleanup(cls.worker.__exit__)
        cls.told = cls.worker.hello()

    def run_batch(self, run, kind, payloads):
        self.worker.batch(run, kind, payloads)
        return self.worker.answers(run, len(payloads))

    def test_it_is_announced_with_the_schema_of_one_payload(self):
        up = self.told["kinds"][0]
        self.assertEqual((up["batch"], up["schema"]["properties"]), ({"largest": 8, "wait_ms": 3}, {"text": {"type": "string"}}))

    def test_an_exception_in_the_list_fails_its_member_alone(self):
        answers = self.run_batch(1, "up", [{"text": "a"}, {"text": "bad"}, {"text": 5}, {"text": "c"}])
        self.assertEqual([each.get("result") for each in answers], ["A", None, None, "C"])
        self.assertEqual((answers[1]["message"], answers[1]["retry"]), ("ValueError: not this one", True))
        self.assertEqual((answers[2]["code"], answers[2]["field"]), ("invalid_payload", "payload.text"))

    def test_a_wrong_length_fails_that_batch_and_the_next_one_runs(self):
        for run, word, says in ((2, "wrong", "returned a list of 1"), (3, "none", "returned NoneType")):
            answers = self.run_batch(run, "up", [{"text": word}, {"text": "b"}])
            for each in answers:
                self.assertEqual((each["code"], each["retry"], says in each["message"]), ("wrong_length", False, True), each)
        self.assertEqual(self.run_batch(4, "up", [{"text": "b"}])[0]["result"], "B")

    def test_an_exception_that_is_raised_fails_all_members(self):
        answers = self.run_batch(5, "up", [{"text": "raise"}, {"text": "b"}])
        self.assertTrue(all("all of them" in each["message"] for each in answers))

    def test_a_task_of_its_own_is_a_batch_of_one(self):
        self.worker.task(6, "up", {"text": "a"})
        self.assertEqual(self.worker.answer(6), {"type": "result", "run": 6, "result": "A"})

    def test_the_sum_of_sizes_bounds_a_call_and_what_cannot_be_measured_fails_alone(self):
        texts = ["aaaa", "bbbb", "unmeasured", "cccc", "d" * 20, "e"]
        answers = self.run_batch(7, "sized", [{"text": text} for text in texts])
        self.assertEqual([each.get("result") for each in answers], [2, 2, None, 1, 1, 1])
        self.assertIn("ZeroDivisionError", answers[2]["message"])

    def test_a_generator_gives_each_member_its_parts(self):
        self.worker.batch(8, "stream", [{"n": 2}, {"n": 1}])
        parts = [self.worker.next("part") for _ in range(3)]
        self.assertEqual([(each["member"], each["value"]) for each in parts], [(0, 0), (1, 0), (0, 1)])
        self.assertEqual([each["result"] for each in self.worker.answers(8, 2)], [[0, 1], [0]])
        self.assertEqual([each["result"] for each in self.run_batch(9, "stream", [{"n": 1}])], ["whole"])

    def test_a_list_of_parts_of_the_wrong_length_fails_that_batch(self):
        answers = self.run_batch(10, "stream", [{"n": 9}, {"n": 9}])
        self.assertEqual([each["code"] for each in answers], ["wrong_length"] * 2)

    def test_whole_payloads_and_the_context_of_all_are_given_where_asked_for(self):
        self.worker.batch(11, "raw", [{"a": 1}, {"b": 2}])
        self.assertEqual([self.worker.next("progress")["member"], self.worker.next("progress")["member"]], [0, 1])
        self.assertEqual([each["result"] for each in self.worker.answers(11, 2)], [[{"a": 1}, "t11.0"], [{"b": 2}, "t11.1"]])

    def test_members_have_segments_of_their_own(self):
        code = "@task(batch=Batch())\ndef size(data: list[bytes]): return [each.decode() for each in data]"
        with Worker(code) as worker:
            worker.hello()
            member = {"attempt": 1, "wants_parts": False}
            members = [
                {**member, "task_id": "a", "segments_from": 0, "payload": {"data": b"one"}},
                {**member, "task_id": "b", "segments_from": 1, "payload": {"data": {"$segment": 0}}},
            ]
            worker.say("batch", {"members": members, "more": b"two"}, run=1, kind="size")
            self.assertEqual([each["result"] for each in worker.answers(1, 2)], ["one", "two"])

    def test_a_cancelled_member_does_not_end_the_batch(self):
        code = """
        import threading
        go = threading.Event()
        @task("hold", batch=Batch(), concurrency=2)
        def hold(n: list[int], all: Context):
            go.wait()
            return [[each.cancelled() for each in all.members], [all.cancelled()]][:len(n)]
        @task("open", concurrency=2)
        def open_(): go.set()
        """
        with Worker(code) as worker:
            worker.hello()
            worker.batch(1, "hold", [{"n": 1}, {"n": 2}])
            worker.say("cancel", run=1, member=0)
            worker.task(2, "open", None)
            # Two threads answer, in either order.
            held = [each for each in (worker.next("result") for _ in range(3)) if each["run"] == 1]
            self.assertEqual([each["result"] for each in sorted(held, key=lambda each: each["member"])], [[True, False], [False]])


class Hints(unittest.TestCase):
    def test_what_cannot_be_a_batch_is_refused_with_what_to_write(self):
        from gpufleet import Batch, task

        @task(batch=Batch())
        def plain(text: str): ...

        @task(batch=Batch())
        def default(text: "list[str]" = []): ...

        for wrong, says in ((plain, "every parameter is a list"), (default, "has no default")):
            with self.assertRaisesRegex(TypeError, says):
                wrong.hello()
        for wrong in ({"largest": 0}, {"wait_ms": -1}, {"size_max": 3}):
            with self.assertRaises(ValueError):
                Batch(**wrong)
