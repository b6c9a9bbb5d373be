"""Hints as schemas and as values, and tests with no fleet."""

from __future__ import annotations

import array
import asyncio
import dataclasses
import enum
import unittest
from typing import Annotated, Any, Dict, List, Literal, Optional, Tuple, TypedDict, Union

from gpufleet import Batch, Context, Fail, InvalidPayload, Range, Tensor, context, task
from gpufleet.values import Segment

try:
    import numpy
except ImportError:
    numpy = None
try:
    import pydantic
except ImportError:
    pydantic = None


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Node:
    name: str
    next: Optional[Node] = None

    def __post_init__(self):
        if self.name == "bad":
            raise ValueError("a bad name")


class Options(TypedDict, total=False):
    deep: Dict[str, List[int]]


class Needed(TypedDict):
    n: int


@task
def everything(
    a: int, b: Annotated[float, "How much.", Range(gt=0, le=1)] = 0.5, c: Color = Color.RED, d: Optional[Node] = None, e: Union[int, str] = 1, f: Literal["x", 2] = "x",
    g: Tuple[int, str] = (1, "a"), h: Options = {}, i: Any = None, j: Annotated[List[int], Range(max_length=2)] = [], k: Needed = {"n": 1},
):  # fmt: skip
    return [a, b, c, d, e, f, list(g), h, i, j, k]


class Hints(unittest.TestCase):
    def test_a_payload_may_be_null_where_no_parameter_has_to_be_given(self):
        def optional(n: int = 3): return n
        def nothing(): return 0
        def needed(n: int): return n
        types = [task(each).hello()["schema"]["type"] for each in (optional, nothing, needed)]
        self.assertEqual(types, [["object", "null"], ["object", "null"], "object"])

    def test_hints_become_a_schema(self):
        schema = everything.hello()["schema"]
        self.assertEqual((schema["required"], schema["additionalProperties"]), (["a"], False))
        properties = schema["properties"]
        self.assertEqual(properties["b"], {"type": "number", "description": "How much.", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5})
        self.assertEqual(properties["d"]["anyOf"], [{"$ref": "#/$defs/Node"}, {"type": "null"}])
        self.assertEqual((properties["f"]["enum"], properties["i"], properties["j"]["maxItems"]), (["x", 2], {"default": None}, 2))
        self.assertEqual(schema["$defs"]["Node"]["properties"]["next"]["anyOf"][0], {"$ref": "#/$defs/Node"})
        self.assertEqual((schema["$defs"]["Color"]["enum"], schema["$defs"]["Needed"]["required"]), (["red", "blue"], ["n"]))

    def test_payloads_become_values(self):
        given = {"a": 3.0, "b": 1, "c": "blue", "d": {"name": "x", "next": {"name": "y"}}, "e": "s", "f": 2, "g": [2, "b"], "h": {"deep": {"k": [1]}}, "i": [None], "j": [1, 2]}
        node = {"name": "x", "next": {"name": "y", "next": None}}
        self.assertEqual(everything.local(**given), [3, 1.0, "blue", node, "s", 2, [2, "b"], {"deep": {"k": [1]}}, [None], [1, 2], {"n": 1}])

    def test_what_does_not_fit_is_named_with_its_place(self):
        for wrong, field, says in (
            ({"a": True}, "payload.a", "must be a whole number, not true"),
            ({"b": 0}, "payload.b", "must be above 0"),
            ({"c": "green"}, "payload.c", "one of 'red', 'blue'"),
            ({"d": {"name": "x", "next": {"name": 4}}}, "payload.d.next.name", "must be a text, not 4"),
            ({"d": {"name": "bad"}}, "payload.d", "a bad name"),
            ({"e": None}, "payload.e", "a whole number, not null, or must be a text"),
            ({"g": [1]}, "payload.g", "a list of 2"),
            ({"h": {"deep": {"k": [1, None]}}}, "payload.h.deep.k[1]", "a whole number"),
            ({"j": [1, 2, 3]}, "payload.j", "at most 2"),
            ({"k": {}}, "payload.k.n", "is missing"),
            ({"z": 1}, "payload.z", "is unknown"),
        ):
            with self.subTest(wrong), self.assertRaises(InvalidPayload) as raised:
                everything.local(**{"a": 1, **wrong})
            self.assertEqual((raised.exception.field, says in raised.exception.problem), (field, True), raised.exception)

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_arrays_come_from_segments_and_from_lists(self):
        from numpy.typing import NDArray

        @task
        def double(numbers: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
            return numbers * 2

        for given in (numpy.ones((2, 2)), [[1, 1], [1, 1]]):
            came = double.local(given)
            self.assertEqual((came.dtype, came.tolist()), (numpy.float32, [[2, 2], [2, 2]]))
        for wrong in ("text", [[1], [1, 2]], [["a"]]):
            with self.assertRaises(InvalidPayload):
                double.local(wrong)

    def test_tensors_are_named_or_come_with_the_payload(self):
        @task
        def total(numbers: Tensor, more: Optional[List[Tensor]] = None):
            return [sum(numbers.flat()), list(numbers.shape), numbers.name, [bytes(each.flat()) for each in more or []]]

        hello = total.hello()
        named = hello["schema"]["properties"]["numbers"]["anyOf"][0]
        self.assertEqual((hello["tensors"], named["required"]), (True, ["tensor"]))
        self.assertNotIn("additionalProperties", named, "what a result says of a kept tensor may be used as it is")
        self.assertNotIn("tensors", everything.hello())
        self.assertEqual(total.local(array.array("d", [1, 2.5]), [b"ab", b""]), [3.5, [2], None, [b"ab", b""]])
        with self.assertRaises(InvalidPayload) as raised:
            total.local({"tensor": "x"})
        self.assertIn("must be a tensor", raised.exception.problem)

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_a_tensor_is_what_its_numbers_are_and_is_closed_by_hand_too(self):
        @task
        def look(of: Tensor):
            with of:
                made = of.numpy()
                told = [of.dtype, list(of.shape), of.nbytes, made.tolist(), made.flags.writeable, repr(of), hasattr(of, "__cuda_array_interface__")]
            return [*told, repr(of)]

        came = look.local(numpy.arange(4, dtype="int16").reshape(2, 2))
        self.assertEqual(came, ["i16", [2, 2], 8, [[0, 1], [2, 3]], False, "<Tensor of the payload: i16[2, 2] cpu>", False, "<Tensor of the payload: i16[2, 2] closed>"])
        half = look.local(numpy.zeros((), dtype="float16"))
        self.assertEqual(half[:4], ["f16", [], 2, 0.0])
        with self.assertRaisesRegex(TypeError, "no view of f16"):
            Tensor.of_segment(Segment(memoryview(bytes(2)), "f16")).flat()

    def test_classes_that_stand_inside_a_function_are_found(self):
        @dataclasses.dataclass
        class Inner:
            n: int

        @dataclasses.dataclass
        class Outer:
            inner: Inner

        @task
        def read(o: Outer):
            return o.inner.n

        self.assertEqual(read.local({"inner": {"n": 4}}), 4)

    @unittest.skipIf(pydantic is None, "pydantic is not installed")
    def test_models_of_pydantic_bring_their_own_schema_and_checks(self):
        class Inner(pydantic.BaseModel):
            n: int = pydantic.Field(ge=1)

        class Model(pydantic.BaseModel):
            inner: Inner

        @task
        def model(m: Model, small: Annotated[int, pydantic.Field(le=3, description="Small.")] = 1):
            return m

        schema = model.hello()["schema"]
        self.assertEqual((schema["$defs"]["Inner"]["properties"]["n"]["minimum"], schema["properties"]["small"]["maximum"]), (1, 3))
        self.assertEqual(model.local({"inner": {"n": 2}}), {"inner": {"n": 2}})
        with self.assertRaises(InvalidPayload) as raised:
            model.local({"inner": {"n": 0}})
        self.assertEqual(raised.exception.field, "payload.m.inner.n")

    def test_what_cannot_be_a_task_is_refused_with_the_reason(self):
        def variadic(*values): ...

        def unreadable(x: complex): ...

        def keys(x: Dict[int, str]): ...

        for function, says in ((variadic, "no \\*args"), (unreadable, "cannot be read from JSON"), (keys, "keys of a dict are texts")):
            with self.assertRaisesRegex(TypeError, says):
                task(function).hello()
        with self.assertRaisesRegex(ValueError, "a-z"):
            task("Has Spaces")(variadic)
        with self.assertRaisesRegex(TypeError, "no method run"):
            task(Color)


class Local(unittest.TestCase):
    def test_functions_stay_functions(self):
        @task
        def plus(a: int, b: int = 1) -> int:
            "Adds."
            return a + b

        self.assertEqual((plus(1, 2), plus.__doc__, plus.__name__, plus.local(1)), (3, "Adds.", "plus", 2))

    def test_a_context_is_there_and_elsewhere_there_is_none(self):
        @task
        def who(c: Context):
            context.progress(0.5)
            return [c.task_id == context.task_id, context.gpu.simulated, context.cancelled()]

        self.assertEqual(who.local(), [True, True, False])
        with self.assertRaisesRegex(RuntimeError, "no task runs here"):
            context.task_id

    def test_what_the_function_raises_comes_through(self):
        @task
        def fail(how: str):
            raise Fail("no", code="c") if how == "fail" else KeyError("k")

        with self.assertRaises(Fail):
            fail.local("fail")
        with self.assertRaises(KeyError):
            fail.local("other")

    def test_a_class_is_set_up_once_and_torn_down_when_it_is_told(self):
        happened = []

        @task("c")
        class C:
            async def setup(self, gpu):
                happened.append(gpu.device)

            async def run(self, n: int):
                return n + 1

            def teardown(self):
                happened.append("down")

        self.assertEqual((C.local(1), C.local(2)), (2, 3))
        C.local_close()
        self.assertEqual(happened, ["cpu", "down"])

    def test_coroutines_run_also_where_a_loop_runs_already(self):
        @task
        async def slow(n: int):
            await asyncio.sleep(0)
            return n

        async def inside():
            return slow.local(4)

        self.assertEqual(asyncio.run(inside()), 4)

    def test_batches_take_payloads_or_values_and_keep_failures_in_their_places(self):
        @task("up", batch=Batch(largest=2))
        def up(text: "list[str]"):
            if "boom" in text:
                raise RuntimeError("boom")
            return [each.upper() for each in text]

        came = up.local_batch(["a", {"text": "b"}, 3, "boom"])
        self.assertEqual(came[:2], ["A", "B"])
        self.assertIsInstance(came[2], InvalidPayload)
        self.assertIsInstance(came[3], RuntimeError)
        self.assertEqual(up.local("x"), "X")
