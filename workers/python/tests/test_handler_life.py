"""From the start of a handler process to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest

from .fake_worker import LONGEST_S, PACKAGE, Worker

SHOUT = """
@task
def shout(text: str) -> str:
    "Says it louder.\\n\\nMore about it."
    return text.upper()
"""


class Life(unittest.TestCase):
    def test_five_lines_serve_a_kind_and_a_drain_ends_it_with_code_0(self):
        with Worker(SHOUT) as worker:
            hello = worker.hello()
            (kind,) = hello["kinds"]
            self.assertEqual((hello["version"], hello["language"], kind["kind"], kind["about"]), (1, "python", "shout", "Says it louder."))
            self.assertEqual(kind["schema"]["properties"], {"text": {"type": "string"}})
            self.assertNotIn("concurrency", hello)
            worker.task(1, "shout", {"text": "a"})
            self.assertEqual(worker.answer(1), {"type": "result", "run": 1, "result": "A"})
            self.assertEqual(worker.drained(), 0, worker.errors())

    def test_a_class_is_set_up_once_warmed_up_and_torn_down(self):
        code = """
        @task("count", warm_up=[{"step": 5}])
        class Count:
            def setup(self, gpu):
                self.total, self.gpu, self.models = 0, gpu, ["m"]
            def run(self, step: int = 1):
                self.total += step
                return [self.total, self.gpu.id, self.gpu.simulated, self.gpu.index, self.gpu.slots]
            def teardown(self):
                print("torn down at", self.total)
        """
        with Worker(code) as worker:
            worker.hello()
            self.assertEqual(worker.ready, {"type": "ready", "models": ["m"]})
            for run, total in ((1, 6), (2, 7)):
                worker.task(run, "count", {})
                self.assertEqual(worker.answer(run)["result"], [total, "sim-3", True, 0, 2])
            self.assertEqual((worker.drained(), worker.output()), (0, "torn down at 7\n"))

    def test_a_drain_waits_for_what_runs(self):
        code = """
        import threading
        go = threading.Event()
        @task(concurrency=2)
        def wait(): return go.wait()
        @task(concurrency=2)
        def let_go(): go.set()
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "wait", None)
            worker.task(2, "let_go", None)
            worker.say("drain")
            self.assertEqual({worker.next("result")["run"], worker.next("result")["run"]}, {1, 2})
            self.assertEqual(worker.ended(), 0)

    def test_a_set_up_that_fails_is_told_and_the_process_ends(self):
        for body, says in (("raise RuntimeError('no model')", "RuntimeError: no model"), ("import sys; sys.exit(3)", "sys.exit(3)")):
            code = f"""
            @task("k")
            class K:
                def setup(self): {body}
                def run(self): pass
            """
            with self.subTest(says), Worker(code) as worker:
                worker.hello()
                self.assertEqual(worker.ready["type"], "setup_failed")
                self.assertIn(says, worker.ready["message"])
                self.assertEqual(worker.ended(), 1)

    def test_a_file_that_cannot_be_imported_says_so_on_standard_error(self):
        for code, says in (
            ("1/0", "ZeroDivisionError"),
            ("import sys; sys.exit(4)", "sys.exit(4)"),
            ("x = 1", "put @task above a function"),
            ("@task\ndef f(x: complex): pass", "f, parameter x: the hint <class 'complex'> cannot be read from JSON"),
            ("@task('a')\ndef f(): pass\n@task('a')\ndef g(): pass", "two tasks have the kind a"),
        ):
            with self.subTest(says), Worker(code) as worker:
                self.assertEqual(worker.ended(), 1)
                self.assertIn(says, worker.errors())

    def test_the_end_of_the_socket_ends_the_process_at_once(self):
        with Worker("import time\n@task\ndef sleep(): time.sleep(600)") as worker:
            worker.hello()
            worker.task(1, "sleep", None)
            worker.socket.shutdown(2)
            self.assertEqual(worker.ended(), 0)

    def test_a_child_of_a_task_does_not_hold_the_socket(self):
        code = """
        import os, subprocess, sys
        @task
        def look():
            said = subprocess.run([sys.executable, "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"], stdout=subprocess.PIPE, close_fds=False).stdout
            return [said.decode(), "GPUFLEET_HANDLER_FD" in os.environ]
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "look", None)
            listed, named = worker.answer(1)["result"]
            # 0, 1, 2 and the listing's own.
            self.assertEqual((listed.strip(), named), ("['0', '1', '2', '3']", False))

    def test_a_fork_of_a_task_does_not_hold_the_socket(self):
        code = """
        import os, time
        @task
        def leave_a_fork():
            if os.fork() == 0:
                time.sleep(600)
            os._exit(7)
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "leave_a_fork", None)
            with self.assertRaisesRegex(AssertionError, "the handler has closed its socket"):
                worker.next()
            self.assertEqual(worker.process.wait(60), 7)

    def test_pings_are_answered_before_ready_and_while_a_function_computes(self):
        code = """
        import threading
        @task("slow")
        class Slow:
            def setup(self):
                while True:
                    if stop: break
            def run(self):
                while True: pass
        stop = []
        threading.Timer(0.2, lambda: stop.append(1)).start()
        """
        with Worker(code) as worker:
            worker.next("hello")
            worker.say("setup", version=1, gpu={"id": "g", "name": "n", "memory_mb": 1, "simulated": True}, slots=1, handler="h")
            worker.say("ping", n=7)
            self.assertEqual(worker.next("pong"), {"type": "pong", "n": 7})
            worker.next("ready")
            worker.task(1, "slow", None)
            worker.say("ping", n=8)
            self.assertEqual(worker.next("pong")["n"], 8)

    def test_health_is_told_with_a_pong_and_a_slow_one_holds_up_none(self):
        code = """
        import threading
        go = threading.Event()
        @task("k", concurrency=2)
        class K:
            def health(self):
                go.wait()
                raise RuntimeError("the cache is lost")
            def run(self): go.set()
        """
        with Worker(code) as worker:
            worker.hello()
            for n in (1, 2):
                worker.say("ping", n=n)
                self.assertEqual(worker.next("pong"), {"type": "pong", "n": n})
            worker.task(1, "k", None)
            worker.answer(1)
            n = 2
            while True:
                n += 1
                worker.say("ping", n=n)
                pong = worker.next("pong")
                if "healthy" in pong:
                    break
            self.assertIs(pong["healthy"], False)
            self.assertIn("the cache is lost", pong["reason"])

    def test_what_is_unknown_is_passed_over(self):
        with Worker(SHOUT) as worker:
            worker.hello()
            worker.say("dance", with_whom="nobody")
            self.assertIn("'dance' is unknown", worker.next("log")["message"])
            worker.task(1, "shout", {"text": "a"}, something_new=[1])
            self.assertEqual(worker.answer(1)["result"], "A")
            worker.say("cancel", run=99)
            worker.say("interrupt", run=1)
            worker.task(2, "dance", {})
            self.assertEqual(worker.answer(2)["code"], "unknown_kind")

    def test_a_module_is_served_by_its_name_and_without_a_worker_the_kinds_are_shown(self):
        with Worker(SHOUT, arguments=["handler"]) as worker:
            self.assertEqual(worker.hello()["kinds"][0]["kind"], "shout")
        variables = {name: value for name, value in os.environ.items() if name != "GPUFLEET_HANDLER_FD"}
        examples = PACKAGE.parent.parent / "examples"
        command = [sys.executable, "-m", "gpufleet", str(examples / "handler.py")]
        shown = subprocess.run(command, env={**variables, "PYTHONPATH": str(PACKAGE)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LONGEST_S, check=True)
        self.assertIn(b'"schema"', shown.stdout)
        self.assertIn(b"gpufleet up --handler", shown.stderr)

    def test_without_a_worker_a_file_that_cannot_be_imported_is_told_by_the_users_lines_alone(self):
        variables = {name: value for name, value in os.environ.items() if name != "GPUFLEET_HANDLER_FD"}
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "mine.py")
            for code, says in (("def f(:\n", "SyntaxError"), ("import nowhere\n", "No module named 'nowhere'"), ("x = 1\n", "put @task above a function")):
                with self.subTest(says):
                    with open(file, "w") as written:
                        written.write(code)
                    command = [sys.executable, "-m", "gpufleet", file]
                    ended = subprocess.run(command, env={**variables, "PYTHONPATH": str(PACKAGE)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LONGEST_S)
                    told = ended.stderr.decode()
                    self.assertEqual((ended.returncode, ended.stdout), (1, b""))
                    self.assertTrue(told.startswith(f"gpufleet: {file} cannot be served: ") and says in told, told)
                    self.assertNotIn("runtime/handler.py", told)
                    self.assertLess(len(told.splitlines()), 8, told)

    def test_a_crash_leaves_its_code_or_signal_and_the_place_on_standard_error(self):
        code = """
        import os, ctypes
        @task
        def leave(): os._exit(7)
        @task
        def fault(): ctypes.string_at(0)
        """
        for kind, ended, says in (("leave", 7, ""), ("fault", -11, "Segmentation fault")):
            with self.subTest(kind), Worker(code) as worker:
                worker.hello()
                worker.task(1, kind, None)
                self.assertEqual(worker.ended(), ended)
                self.assertIn(says, worker.errors())
                self.assertTrue(kind == "leave" or "in fault" in worker.errors())

    def test_a_fault_on_the_gpu_ends_the_process_so_that_no_later_task_meets_it(self):
        code = """
        @task(concurrency=2)
        def index(how: str):
            if how == "memory": raise RuntimeError("CUDA error: out of memory")
            if how == "other": raise RuntimeError("CUDA error: invalid argument")
            raise RuntimeError("CUDA error: device-side assert triggered")
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task(1, "index", {"how": "memory"})
            self.assertTrue(worker.answer(1)["out_of_memory"])
            worker.task(2, "index", {"how": "other"})
            self.assertIn("invalid argument", worker.answer(2)["message"])
            worker.task(3, "index", {"how": "fault"})
            self.assertEqual(worker.ended(), 86)
            self.assertIn("device-side assert triggered", worker.errors())
            with self.assertRaisesRegex(AssertionError, "has closed its socket"):
                worker.next("result", "error")
