"""The ready handlers for embeddings and for model files, over stand-ins."""

from __future__ import annotations

import json
import unittest

import numpy

from gpufleet.frames import pack, send
from gpufleet.values import Encoder

from .ready import Ready


def expected(text):
    """The mean over the tokens of what the stand-in's model says of each, of length 1."""
    ids = numpy.array([1, *(3 + byte for byte in text.encode())], dtype="float32")
    mean = numpy.stack([ids, ids * ids % 17, numpy.arange(len(ids))], axis=-1).mean(axis=0)
    return mean / numpy.linalg.norm(mean)


class Embeddings(unittest.TestCase):
    def test_texts_of_any_length_together_have_the_vectors_that_each_has_alone(self):
        texts = ["a", "two words", "a much longer text than the others are", "äöü", "b"]
        with Ready("embeddings.py") as worker:
            worker.hello()
            worker.batch(1, "embeddings", [{"text": text} for text in texts])
            for text, answer in zip(texts, worker.answers(1, len(texts))):
                numpy.testing.assert_allclose(answer["result"]["vector"], expected(text), rtol=1e-5)
                self.assertEqual(answer["result"]["vector"].dtype, "float32")
            self.assertEqual(worker.calls(), [len(texts)])

    def test_lists_of_texts_give_lists_of_vectors_and_numbers_where_they_are_wanted(self):
        with Ready("embeddings.py") as worker:
            worker.hello()
            worker.batch(1, "embeddings", [{"text": ["a", "bcd"]}, {"text": "ef", "form": "numbers"}, {"text": ["g"], "form": "numbers"}])
            rows, numbers, list_of_one = [answer["result"] for answer in worker.answers(1, 3)]
            numpy.testing.assert_allclose(rows["vectors"], [expected("a"), expected("bcd")], rtol=1e-5)
            self.assertIsInstance(numbers["vector"], list)
            numpy.testing.assert_allclose(numbers["vector"], expected("ef"), rtol=1e-5)
            self.assertEqual((len(list_of_one["vectors"]), list_of_one["tokens"]), (1, 2))

    def test_a_call_has_no_more_tokens_than_were_configured(self):
        with Ready("embeddings.py", TOKENS_MAX="20", STANDIN_TOKENS="20") as worker:
            worker.hello()
            worker.batch(1, "embeddings", [{"text": "a" * length} for length in (9, 9, 3, 3, 12, 1)])
            answers = worker.answers(1, 6)
            self.assertEqual({answer["type"] for answer in answers}, {"result"}, answers)

    def test_what_is_too_long_or_empty_fails_alone_and_nothing_is_cut(self):
        with Ready("embeddings.py", context=20) as worker:
            worker.hello()
            worker.batch(1, "embeddings", [{"text": "a"}, {"text": "a" * 20}, {"text": ["b", ""]}, {"text": []}])
            answers = worker.answers(1, 4)
            self.assertEqual([answer.get("field") for answer in answers], [None, "payload.text", "payload.text[1]", "payload.text"])
            self.assertIn("has 21 tokens, and the model reads 1 to 20", answers[1]["message"])

    def test_too_little_memory_is_told_as_that(self):
        with Ready("embeddings.py", STANDIN_TOKENS="10") as worker:
            worker.hello()
            worker.batch(1, "embeddings", [{"text": "a" * 30}])
            self.assertTrue(worker.answers(1, 1)[0]["out_of_memory"])


def batch(worker, run, payloads):
    """A batch whose payloads have arrays."""
    members, segments = [], []
    for place, payload in enumerate(payloads):
        encoder = Encoder()
        fields = {"task_id": f"t{place}", "attempt": 1, "wants_parts": False, "segments_from": len(segments)}
        members.append({**fields, "payload": json.loads(encoder.text(payload))})
        segments += encoder.segments
    head = {"type": "batch", "run": run, "kind": "torch", "members": members, "segments": [segment.nbytes for segment in segments]}
    send(worker.socket, pack(json.dumps(head), segments))


def inputs(first, rows=1, columns=2, dtype="float32"):
    x = numpy.arange(first, first + rows * columns).reshape(rows, columns).astype(dtype)
    return {"inputs": {"x": x, "y": x * 10}}


class TorchModel(unittest.TestCase):
    def test_arrays_go_in_by_name_and_come_out(self):
        with Ready("torch_model.py") as worker:
            worker.hello()
            worker.say("task", {"payload": {"inputs": {"y": numpy.ones((1, 2), "float32"), "x": numpy.full((1, 2), 3, "float32")}}}, run=1, kind="torch", task_id="t", attempt=1, wants_parts=False)
            numpy.testing.assert_array_equal(worker.answer(1)["result"]["outputs"]["output"], [[7, 7]])

    def test_names_and_values_that_do_not_fit_name_the_input(self):
        with Ready("torch_model.py") as worker:
            worker.hello()
            for run, (wrong, field) in enumerate([({"z": 1}, "z"), ({}, "x"), ({"x": [1], "y": [2]}, "x")]):
                worker.task(run, "torch", {"inputs": wrong})
                self.assertEqual(worker.answer(run)["field"], f"payload.inputs.{field}")

    def test_payloads_are_joined_along_axis_0_where_they_fit_and_cut_again(self):
        with Ready("torch_model.py", BATCH="16") as worker:
            worker.hello()
            payloads = [inputs(0), inputs(5, rows=3), inputs(9, columns=3), inputs(1, dtype="float64"), inputs(2, rows=2)]
            batch(worker, 1, payloads)
            for payload, answer in zip(payloads, worker.answers(1, len(payloads))):
                numpy.testing.assert_array_equal(answer["result"]["outputs"]["output"], payload["inputs"]["x"] * 12)
            self.assertEqual(sorted(worker.calls()), [1, 1, 6])

    def test_one_payload_that_fails_fails_no_other(self):
        with Ready("torch_model.py", BATCH="16") as worker:
            worker.hello()
            batch(worker, 1, [inputs(0), inputs(-5), {"inputs": {}}, inputs(4)])
            kinds = [answer["type"] for answer in worker.answers(1, 4)]
            self.assertEqual(kinds, ["result", "error", "error", "result"])

    def test_what_does_not_fit_together_runs_one_by_one(self):
        with Ready("torch_model.py", BATCH="16") as worker:
            worker.hello()
            batch(worker, 1, [inputs(0, rows=6), inputs(1, rows=6), inputs(1, rows=9)])
            answers = worker.answers(1, 3)
            self.assertEqual([answer["type"] for answer in answers], ["result", "result", "error"])
            self.assertTrue(answers[2]["out_of_memory"])

    def test_model_json_names_inputs_and_outputs(self):
        with Ready("torch_model.py") as worker:
            (worker.model / "model.json").write_text('{"inputs": ["left", "right"], "outputs": ["sum"]}')
            worker.hello()
            both = {"left": numpy.ones((1, 1), "float32"), "right": numpy.ones((1, 1), "float32")}
            worker.say("task", {"payload": {"inputs": both}}, run=1, kind="torch", task_id="t", attempt=1, wants_parts=False)
            self.assertEqual(list(worker.answer(1)["result"]["outputs"]), ["sum"])
