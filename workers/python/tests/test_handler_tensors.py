"""Tasks that name tensors: in shared memory as beside a simulated GPU, and on a GPU whose driver is stood in for."""

from __future__ import annotations

import array
import ctypes
import unittest

from gpufleet import cuda
from gpufleet.runtime.failures import is_gpu_lost

from .fake_worker import Worker

try:
    import numpy
except ImportError:
    numpy = None

#: What a process has open, and what it has mapped of shared memory.
HELD = """
import gc, os
@task
def held():
    with open("/proc/self/maps") as maps:
        return [len(os.listdir("/proc/self/fd")), sum("gpufleet" in line and "memfd" in line for line in maps)]
"""

SUMS = HELD + """
from typing import Any
@task
def total(numbers: Tensor, again: Any = None):
    return [sum(numbers.flat()), numbers.name, numbers.version, numbers.dtype, list(numbers.shape), numbers.nbytes, numbers.device]
@task
def same(of: Tensor): return of
@task
async def later(of: Tensor): return of
@task
def part(of: Tensor): return of.flat()[1:3]
@task
def fails(of: Tensor):
    view = of.flat()
    raise Fail(f"has {len(view)}")
kept = []
@task
def keeps(of: Tensor):
    kept.append(of)
    with of: pass
    return None
@task
def finds(): return kept[0].flat()[0]
@task
def rows(of: list[Tensor], more: dict[str, Tensor]): return [each.name or "beside" for each in [*of, *more.values()]]
@task(batch=Batch(4))
def lengths(of: list[Tensor]): return [each.nbytes for each in of]
@task
def plain(payload: Any): return payload
"""


def floats(*numbers):
    return array.array("f", numbers).tobytes()


def named(name, shape, dtype="f32", **more):
    return {"tensor": name, "dtype": dtype, "shape": shape, **more}


class SharedMemory(unittest.TestCase):
    def test_a_kind_says_that_it_takes_tensors_where_its_hints_do(self):
        with Worker(SUMS) as worker:
            kinds = {each["kind"]: each.get("tensors", False) for each in worker.hello()["kinds"]}
            expected = {"held": False, "plain": False, "finds": False}
            self.assertEqual(kinds, {**dict.fromkeys(kinds, True), **expected})

    def test_a_tensor_is_read_where_it_lies_and_given_by_its_name(self):
        with Worker(SUMS) as worker:
            worker.hello()
            worker.task_on(1, "total", {"numbers": {"tensor": "x"}}, [(named("x", [3]), floats(1, 2, 4))])
            self.assertEqual(worker.answer(1)["result"], [7.0, "x", 1, "f32", [3], 12, "cpu"])
            # What a result says of a tensor that it kept is a reference, too.
            kept = {"tensor": "x", "version": 5, "gpu_id": "sim-0", "dtype": "f32", "shape": [1], "bytes": 4}
            came = [(named("x", [2], version=5), floats(5, 5)), (named("x", [1], version=7), floats(7)), (named("y", [1], version=9), floats(9))]
            worker.task_on(2, "total", {"numbers": kept}, came)
            self.assertEqual(worker.answer(2)["result"][:3], [10.0, "x", 5])
            worker.task_on(3, "total", {"numbers": {"tensor": "x"}, "again": {"tensor": 1}}, came)
            self.assertEqual(worker.answer(3)["result"][:3], [7.0, "x", 7])
            worker.task_on(4, "total", {"numbers": {"tensor": "z"}}, came)
            answer = worker.answer(4)
            self.assertEqual((answer["code"], answer["field"]), ("invalid_payload", "payload.numbers"))

    def test_names_are_found_at_any_depth_beside_arrays_of_the_payload(self):
        with Worker(SUMS) as worker:
            worker.hello()
            payload = {"of": [{"tensor": "a"}, array.array("f", [1.0])], "more": {"m": {"tensor": "b"}, "n": b"xy"}}
            worker.task_on(1, "rows", payload, [(named("a", [1]), floats(1)), (named("b", []), floats(2)), (named("not asked for", [1]), floats(3))])
            self.assertEqual(worker.answer(1)["result"], ["a", "beside", "b", "beside"])
            worker.task_on(2, "lengths", {"of": {"tensor": "a"}}, [(named("a", [2, 0]), b"")])
            self.assertEqual(worker.answer(2)["result"], 0)
            # Nothing came: the object is one like any other.
            worker.task(3, "plain", {"tensor": "a"})
            self.assertEqual(worker.answer(3)["result"], {"tensor": "a"})

    def test_a_tensor_and_what_is_made_of_it_can_be_a_result(self):
        with Worker(SUMS) as worker:
            worker.hello()
            large = array.array("f", range(1 << 20)).tobytes()
            for run, kind in enumerate(("same", "later"), 1):
                worker.task_on(run, kind, {"of": {"tensor": "x"}}, [(named("x", [1024, 1024]), large)])
                self.assertEqual(bytes(worker.answer(run)["result"]), large)
            worker.task_on(3, "part", {"of": {"tensor": "x"}}, [(named("x", [4]), floats(1, 2, 3, 4))])
            self.assertEqual(list(memoryview(bytes(worker.answer(3)["result"])).cast("f")), [2.0, 3.0])

    def test_nothing_is_left_open_or_mapped_after_any_end_of_a_run(self):
        with Worker(SUMS) as worker:
            worker.hello()
            worker.task(1, "held", None)
            before = worker.answer(1)["result"]
            self.assertEqual(before[1], 0)
            tensors = [(named("x", [2]), floats(1, 2)), (named("y", [1]), floats(1))]
            kinds = ("total", "same", "later", "part", "fails", "keeps", "lengths", "no such kind")
            for round in range(5):
                for place, kind in enumerate(kinds):
                    run = 10 + round * len(kinds) + place
                    worker.task_on(run, kind, {("numbers" if kind == "total" else "of"): {"tensor": "x"}}, tensors)
                    answer = worker.answer(run)
                    self.assertEqual(answer["type"], "error" if kind in ("fails", "no such kind") else "result", answer)
            # A payload that does not fit, and a message that has nothing to do with tensors.
            worker.task_on(200, "total", {"other": {"tensor": "x"}}, tensors)
            self.assertEqual(worker.answer(200)["code"], "invalid_payload")
            worker.task(2, "held", None)
            self.assertEqual(worker.answer(2)["result"], before)
            worker.task(3, "finds", None)
            self.assertIn("the tensor x is closed", worker.answer(3)["message"])

    def test_many_at_once_are_not_mixed_up(self):
        with Worker(SUMS) as worker:
            worker.hello()
            for run in range(100):
                worker.task_on(run, "later", {"of": {"tensor": "x"}}, [(named("x", [1000], version=run), floats(*[run] * 1000))] * (1 + run % 3))
                worker.say("ping", n=run)
            came = {}
            while len(came) < 100:
                answer = worker.next("result")
                came[answer["run"]] = bytes(answer["result"])
            self.assertEqual(came, {run: floats(*[run] * 1000) for run in range(100)})

    def test_tensors_that_cannot_be_taken_fail_their_run_alone(self):
        with Worker(SUMS) as worker:
            worker.hello()
            for run, about in enumerate([{"bytes": 1 << 40}, {"dtype": "f128"}, {"cuda_ipc": "00"}, {"shared": 4}]):
                content = floats(1) if "bytes" in about else b""
                worker.task_on(run, "total", {"numbers": {"tensor": "x"}}, [({**named("x", [1]), **about}, content)])
                answer = worker.answer(run)
                self.assertIn("its tensors cannot be taken", answer["message"])
            worker.task_on(9, "total", {"numbers": {"tensor": "x"}}, [(named("x", [1]), floats(3))])
            self.assertEqual(worker.answer(9)["result"][0], 3.0)

    def test_more_descriptors_than_were_sent_end_the_process_with_a_word(self):
        with Worker(SUMS) as worker:
            worker.hello()
            worker.task_on(1, "total", {"numbers": {"tensor": "x"}}, [], descriptors=2)
            self.assertEqual(worker.ended(), 1)
            self.assertIn("a message with 2 file descriptors, of which 0 came", worker.errors())

    def test_a_program_that_a_task_starts_does_not_hold_the_memory(self):
        code = """
        import os, subprocess
        @task
        def starts(of: Tensor):
            listed = subprocess.run(["ls", "-l", "/proc/self/fd"], stdout=subprocess.PIPE, close_fds=False, check=True).stdout
            return "memfd" in listed.decode()
        """
        with Worker(code) as worker:
            worker.hello()
            worker.task_on(1, "starts", {"of": {"tensor": "x"}}, [(named("x", [1]), floats(1))])
            self.assertIs(worker.answer(1)["result"], False)

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_numpy_gets_the_memory_itself_and_cannot_write_it(self):
        code = """
        import numpy
        @task
        def look(of: Tensor):
            one, other = of.numpy(), numpy.asarray(of)
            there = numpy.from_dlpack(of)
            return {"same": numpy.shares_memory(one, other) and numpy.shares_memory(one, there), "writable": one.flags.writeable, "dtype": one.dtype.name,
                    "shape": list(one.shape), "sum": float(one.sum(dtype="float64")), "half": one[:, :1]}
        """
        with Worker(code) as worker:
            worker.hello()
            content = numpy.arange(6, dtype="float16").reshape(2, 3)
            worker.task_on(1, "look", {"of": {"tensor": "x"}}, [(named("x", [2, 3], "f16"), content.tobytes())])
            result = worker.answer(1)["result"]
            self.assertTrue((result.pop("half") == content[:, :1]).all())
            self.assertEqual(result, {"same": True, "writable": False, "dtype": "float16", "shape": [2, 3], "sum": 15.0})


#: A driver that counts what is open, in place of CUDA's.
ON_GPU = HELD + """
import ctypes
from gpufleet import cuda
class Driver:
    def __init__(self): self.open_now, self.calls = {}, []
    def open(self, handle):
        self.calls.append("open")
        kept = ctypes.create_string_buffer(bytes(handle)[:8], 8)
        self.open_now[ctypes.addressof(kept)] = kept
        return ctypes.addressof(kept)
    def close(self, address):
        self.calls.append("close")
        del self.open_now[address]
    def read(self, address, into):
        self.calls.append("read")
        into[:] = ctypes.string_at(address, len(into))
there = Driver()
cuda.driver = lambda: there
@task
def look(of: Tensor):
    there.calls.clear()
    interface = of.__cuda_array_interface__
    return [interface["shape"], interface["typestr"], interface["data"][0] in there.open_now, interface["version"], of.device, of.__dlpack_device__()]
@task
def reads(of: Tensor): return [list(of.flat()), of]
@task
def idles(of: Tensor): return of.on_gpu
@task
def fails(of: Tensor):
    of.flat()
    raise ValueError("no")
@task
def told(): return [there.calls, len(there.open_now)]
"""


class OnGpu(unittest.TestCase):
    def test_memory_of_the_gpu_is_opened_at_its_first_use_and_closed_before_the_answer(self):
        with Worker(ON_GPU) as worker:
            worker.hello(simulated=False)
            handle = floats(1, 2) + bytes(56)
            tensor = [({**named("x", [2]), "bytes": 8, "cuda_ipc": handle.hex()}, b"")]
            worker.task_on(1, "look", {"of": {"tensor": "x"}}, tensor)
            self.assertEqual(worker.answer(1)["result"], [[2], "<f4", True, 3, "cuda:0", [2, 0]])
            for run, (kind, calls) in enumerate([(None, ["open", "close"]), ("reads", ["open", "read", "read", "close"]), ("idles", []), ("fails", ["open", "read", "close"])]):
                if kind is not None:
                    worker.task_on(10 + run, kind, {"of": {"tensor": "x"}}, tensor)
                    answer = worker.answer(10 + run)
                    if kind == "reads":
                        self.assertEqual((answer["result"][0], bytes(answer["result"][1])), ([1.0, 2.0], floats(1, 2)))
                worker.task(20 + run, "told", None)
                told, still_open = worker.answer(20 + run)["result"]
                self.assertEqual((told[-len(calls) :] if calls else [], still_open), (calls, 0))

    def test_without_a_driver_the_run_fails_with_a_word(self):
        code = """
        from gpufleet import cuda
        def nowhere(): raise RuntimeError("CUDA error: no driver can be used: libcuda.so.1")
        cuda.driver = nowhere
        @task
        def total(of: Tensor): return sum(of.flat())
        """
        with Worker(code) as worker:
            worker.hello(simulated=False)
            worker.task_on(1, "total", {"of": {"tensor": "x"}}, [({**named("x", [2]), "bytes": 8, "cuda_ipc": "00" * 64}, b"")])
            self.assertIn("no driver can be used", worker.answer(1)["message"])


class Library:
    """The few functions of CUDA's library, which keep what they were called with."""

    def __init__(self, current=0, fails=None):
        self.current, self.fails, self.said = current, fails, []

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def function(*arguments):
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"an illegal memory access was encountered"
                return 0
            self.said.append(name)
            if name == "cuCtxGetCurrent":
                arguments[0]._obj.value = self.current
            elif name == "cuDevicePrimaryCtxRetain":
                arguments[0]._obj.value = 77
            elif name == "cuCtxSetCurrent":
                self.current = arguments[0].value
            elif name == "cuIpcOpenMemHandle_v2":
                arguments[0]._obj.value = int.from_bytes(bytes(arguments[1])[:8], "little")
            elif name == "cuMemcpyDtoH_v2":
                ctypes.memmove(arguments[0], arguments[1], arguments[2])
            return 700 if name == self.fails else 0

        setattr(self, name, function)
        return function


class Drivers(unittest.TestCase):
    def test_a_thread_without_a_context_gets_that_of_the_device_once(self):
        library = Library()
        driver = cuda.Driver(library)
        kept = ctypes.create_string_buffer(b"contents", 8)
        address = driver.open(ctypes.addressof(kept).to_bytes(8, "little") + bytes(56))
        self.assertEqual((address, library.current), (ctypes.addressof(kept), 77))
        into = bytearray(8)
        driver.read(address, into)
        driver.close(address)
        self.assertEqual(bytes(into), b"contents")
        self.assertEqual((library.said.count("cuDevicePrimaryCtxRetain"), library.said.count("cuCtxSetCurrent")), (1, 1))
        self.assertEqual(library.said[-2:], ["cuCtxSynchronize", "cuIpcCloseMemHandle"])

    def test_a_context_that_is_there_is_used(self):
        library = Library(current=5)
        cuda.Driver(library).open(bytes(64))
        self.assertNotIn("cuDevicePrimaryCtxRetain", library.said)

    def test_an_error_is_told_in_cudas_own_words(self):
        library = Library(current=5, fails="cuIpcOpenMemHandle_v2")
        with self.assertRaises(RuntimeError) as raised:
            cuda.Driver(library).open(bytes(64))
        self.assertIn("CUDA error: an illegal memory access was encountered (open a tensor of the worker's", str(raised.exception))
        self.assertTrue(is_gpu_lost(raised.exception))


if __name__ == "__main__":
    unittest.main()
