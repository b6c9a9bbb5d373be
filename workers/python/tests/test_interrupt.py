"""Whoever takes a guard's token decides, and an exception never comes late."""

from __future__ import annotations

import ctypes
import threading
import unittest

from gpufleet import Cancelled, Gpu, task
from gpufleet.frames import unpack
from gpufleet.runtime.interrupt import Guard
from gpufleet.runtime.runs import Run


class Told:
    """Keeps what would go to the worker."""

    def __init__(self):
        self.messages = []

    def send(self, buffers):
        self.messages.append(unpack(b"".join(buffers))[0])

    put = put_now = send


def run_of(function, **fields):
    told = Told()
    return told, Run({"run": 1, "task_id": "t", "payload": None, **fields}, [], function, function.target, Gpu(), told)


@task
def answer():
    return 42


class Guards(unittest.TestCase):
    def test_after_its_end_a_call_is_not_interrupted(self):
        guard = Guard()
        guard.close()
        guard.interrupt()
        for _ in range(10_000):
            pass

    def test_an_exception_that_is_on_its_way_comes_up_before_the_call_is_over(self):
        begun = threading.Event()

        class Watched(Guard):
            def _take(self):
                taken = super()._take()
                begun.set()
                return taken

        guard = Watched()
        own = threading.get_ident()
        self.assertTrue(guard._take())
        begun.clear()

        def interrupt():
            begun.wait()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(own), ctypes.py_object(Cancelled))
            guard._raised = True

        thread = threading.Thread(target=interrupt)
        thread.start()
        with self.assertRaises(Cancelled):
            guard.close()
        thread.join()

    def test_a_run_ends_its_guard_before_it_answers_and_answers_once(self):
        closed = []

        class Late(Guard):
            def close(self):
                closed.append(list(told.messages))
                raise Cancelled

        told, run = run_of(answer)
        run.work(Late)
        self.assertEqual(closed, [[]])
        (message,) = told.messages
        self.assertEqual((message["type"], run.over), ("error", True))

    def test_an_interrupt_that_comes_before_the_guard_is_not_lost(self):
        told, run = run_of(answer)

        def guard():
            run.interrupted = True
            return Guard()

        run.work(guard)
        self.assertIn("interrupted", told.messages[0]["message"])

    def test_what_was_cancelled_before_it_began_is_not_begun(self):
        begun = []

        @task
        def begin():
            begun.append(1)

        told, run = run_of(begin)
        run.cancel(None)
        run.work(Guard)
        self.assertEqual((told.messages[0]["code"], begun), ("cancelled", []))
