"""Lanes go on whatever happens to a run."""

from __future__ import annotations

import queue
import threading
import unittest

from gpufleet.runtime.lanes import MainLane, ThreadLane

from .fake_worker import LONGEST_S


class Broken:
    """A run at which the package itself fails."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.over = False
        self.told = ""

    def work(self, _guard_of: object) -> None:
        raise RuntimeError(f"run {self.number}")

    def broke(self, error: BaseException) -> None:
        self.over = True
        self.told = str(error)


class Lanes(unittest.TestCase):
    def test_a_run_at_which_the_package_fails_is_answered_and_ends_no_lane(self):
        over: queue.SimpleQueue[Broken] = queue.SimpleQueue()
        main = MainLane(over.put)
        thread = threading.Thread(target=main.serve, daemon=True)
        thread.start()
        for lane in (main, ThreadLane(1, over.put)):
            for number in (1, 2):
                with self.subTest(lane=type(lane).__name__, number=number):
                    lane.submit(Broken(number))
                    self.assertEqual(over.get(timeout=LONGEST_S).told, f"run {number}")
        main.stop()
        thread.join(LONGEST_S)
        self.assertFalse(thread.is_alive())
