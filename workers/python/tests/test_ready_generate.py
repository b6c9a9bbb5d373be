"""The ready handler that generates text, over a stand-in whose next token depends on every token and its place."""

from __future__ import annotations

import unittest

from .ready import Ready

TEXTS = ["Once upon a time", "a", "~ without an end", "längere Wörter stehen hier", "x y", "the same length 1", "the same length 2", "漢字"]


def payload(number, text):
    return {"text": text, "max_length": 30 + 3 * number}


def alone(texts, **variables):
    """The texts, each with the model to itself."""
    with Ready("generate.py", **variables) as worker:
        worker.hello()
        found = []
        for number, text in enumerate(texts):
            worker.task(number, "generate", payload(number, text), wants_parts=False)
            found.append(worker.answer(number)["result"])
        assert set(worker.calls()[1:]) == {1}
        return found


class SideBySide(unittest.TestCase):
    def test_texts_of_any_length_are_the_same_in_company_as_alone_and_their_parts_join_to_them(self):
        expected = alone(TEXTS)
        self.assertGreater(len({answer["text"] for answer in expected}), 6)
        self.assertEqual({answer["finish_reason"] for answer in expected}, {"stop", "length"})
        self.assertTrue(any(ord(letter) > 255 for answer in expected for letter in answer["text"]), expected)
        with Ready("generate.py") as worker:
            worker.hello()
            for number, text in enumerate(TEXTS):
                worker.task(number, "generate", payload(number, text))
            answers, parts = worker.several(len(TEXTS))
            for number in range(len(TEXTS)):
                self.assertEqual(answers[number]["result"], expected[number])
                self.assertEqual("".join(parts.get(number, [])), expected[number]["text"])
                self.assertFalse([part for part in parts.get(number, []) if "\ufffd" in part])
            self.assertGreater(max(worker.calls()), 1)
            self.assertEqual(worker.drained(), 0, worker.errors())

    def test_a_text_joins_others_between_two_steps_and_leaves_when_it_ends(self):
        (expected,) = alone(["joins later"])
        with Ready("generate.py", TOKENS_MAX="1000000", context=1 << 20) as worker:
            worker.hello()
            worker.task(1, "generate", {"text": "~", "max_length": 1_000_000})
            worker.next("part")
            worker.task(2, "generate", payload(0, "joins later"), wants_parts=False)
            self.assertEqual(worker.answer(2)["result"], expected)
            worker.next("part")
            worker.say("cancel", run=1)
            self.assertEqual(worker.answer(1)["code"], "cancelled")
            # The place of the one that was cancelled is free, and its row is gone.
            worker.task(3, "generate", payload(0, "joins later"), wants_parts=False)
            self.assertEqual(worker.answer(3)["result"], expected)
            self.assertEqual(worker.calls()[-1], 1)

    def test_a_seed_gives_the_same_text_alone_and_in_company(self):
        heated = {"text": "~ warm", "max_length": 40, "temperature": 1.5}
        with Ready("generate.py") as worker:
            worker.hello()
            worker.task(1, "generate", {**heated, "seed": 5})
            text = worker.answer(1)["result"]["text"]
            for run, seed in enumerate((5, 5, 6, 6), 2):
                worker.task(run, "generate", {**heated, "seed": seed})
            worker.task(6, "generate", {**heated, "temperature": 0.0})
            answers, _parts = worker.several(5)
            texts = [answers[run]["result"]["text"] for run in range(2, 7)]
            self.assertEqual(texts[:2], [text, text])
            self.assertEqual(texts[2], texts[3])
            self.assertEqual(len(set(texts)), 3)

    def test_progress_is_told(self):
        with Ready("generate.py") as worker:
            worker.hello()
            worker.task(1, "generate", {"text": "~", "max_length": 64})
            self.assertEqual([worker.next("progress")["fraction"] for _ in range(4)], [0.25, 0.5, 0.75, 1.0])

    def test_no_more_texts_run_at_once_than_were_configured(self):
        with Ready("generate.py", TEXTS_MAX="2") as worker:
            self.assertEqual(worker.hello()["concurrency"], 2)
            for number, text in enumerate(TEXTS):
                worker.task(number, "generate", payload(number, text), wants_parts=False)
            worker.several(len(TEXTS))
            self.assertEqual(max(worker.calls()), 2)


class Failures(unittest.TestCase):
    def test_where_memory_gets_too_small_the_newest_waits_and_every_text_is_as_it_would_be(self):
        texts = ["~ abc", "~ defg", "~ hi"]
        expected = alone(texts)
        # Each alone has room, with at most 44 tokens; three side by side grow out of it.
        with Ready("generate.py", STANDIN_TOKENS="60") as worker:
            worker.hello()
            for number, text in enumerate(texts):
                worker.task(number, "generate", payload(number, text))
            answers, parts = worker.several(3)
            for number in range(3):
                self.assertEqual(answers[number].get("result"), expected[number], answers[number])
                self.assertEqual("".join(parts[number]), expected[number]["text"])
            self.assertGreater(max(worker.calls()), 1)

    def test_a_text_for_which_there_is_no_memory_at_all_is_told_so_and_the_next_one_runs(self):
        with Ready("generate.py", STANDIN_TOKENS="60") as worker:
            worker.hello()
            for run, long in ((1, {"text": "~", "max_length": 200}), (2, {"text": "a" * 80})):
                worker.task(run, "generate", long)
                answer = worker.answer(run)
                self.assertTrue(answer["out_of_memory"], answer)
            worker.task(3, "generate", {"text": "~", "max_length": 5})
            self.assertEqual(worker.answer(3)["result"]["tokens"], 5)

    def test_a_model_that_fails_fails_those_that_were_in_the_call_and_no_later_one(self):
        with Ready("generate.py") as worker:
            worker.hello()
            worker.task(1, "generate", {"text": "? now"})
            answer = worker.answer(1)
            self.assertIn("ValueError: the model cannot", answer["message"])
            worker.task(2, "generate", {"text": "~", "max_length": 5})
            self.assertEqual(worker.answer(2)["result"]["tokens"], 5)

    def test_a_fault_on_the_gpu_ends_the_process_and_answers_nothing(self):
        with Ready("generate.py") as worker:
            worker.hello()
            worker.task(1, "generate", {"text": "! now"})
            self.assertEqual(worker.ended(), 86)
            self.assertIn("device-side assert triggered", worker.errors())
            with self.assertRaisesRegex(AssertionError, "has closed its socket"):
                worker.next("result", "error")

    def test_payloads_that_cannot_be_generated_name_the_field(self):
        with Ready("generate.py", context=100) as worker:
            worker.hello()
            user = {"role": "user", "content": "hi"}
            refused = [
                ({}, "payload.text"), ({"text": "a", "chat": [user]}, "payload.text"), ({"text": ""}, "payload.text"), ({"text": "a" * 100}, "payload.text"),
                ({"chat": [{"role": "assistant", "content": "a"}]}, "payload.chat"), ({"text": "a", "temperature": 3}, "payload.temperature"),
                ({"text": "a", "max_length": 0}, "payload.max_length"),
            ]  # fmt: skip
            for run, (wrong, field) in enumerate(refused):
                worker.task(run, "generate", wrong)
                answer = worker.answer(run)
                self.assertEqual((answer["code"], answer["field"], answer["retry"]), ("invalid_payload", field, False), answer)

    def test_a_conversation_is_written_by_the_models_template_and_the_context_ends_a_text(self):
        with Ready("generate.py", context=60) as worker:
            worker.hello()
            worker.task(1, "generate", {"chat": [{"role": "user", "content": "~hi"}]})
            worker.task(2, "generate", {"text": "~" + "a" * 50})
            answers, _parts = worker.several(2)
            self.assertEqual(answers[1]["result"]["tokens"], 60 - len("user:~hi|"))
            self.assertEqual((answers[2]["result"]["tokens"], answers[2]["result"]["finish_reason"]), (8, "length"))


class Places(unittest.TestCase):
    def test_a_real_gpu_that_pytorch_cannot_use_fails_set_up_and_the_cpu_is_not_used(self):
        for file in ("generate.py", "embeddings.py", "torch_model.py"):
            with Ready(file) as worker:
                worker.hello(simulated=False)
                self.assertEqual(worker.ready["type"], "setup_failed")
                self.assertIn("cannot use the GPU sim-3: it was built without CUDA", worker.ready["message"])

    def test_a_model_that_stays_on_the_cpu_fails_set_up(self):
        for file in ("generate.py", "embeddings.py"):
            with Ready(file, STANDIN_CUDA="1", STANDIN_STAYS="1") as worker:
                worker.hello(simulated=False)
                self.assertIn("the weight weight is on cpu, and the model is to run on cuda:0", worker.ready["message"])

    def test_on_a_real_gpu_everything_is_on_cuda(self):
        with Ready("generate.py", STANDIN_CUDA="1") as worker:
            worker.hello(simulated=False)
            self.assertEqual(worker.ready["type"], "ready", worker.ready)
            for number, text in enumerate(TEXTS):
                worker.task(number, "generate", {**payload(number, text), "temperature": number % 2})
            answers, _parts = worker.several(len(TEXTS))
            self.assertEqual({answer["type"] for answer in answers.values()}, {"result"})

    def test_a_model_that_is_not_there_is_a_sentence(self):
        for variables, told in (({"MODEL": ""}, "name its folder in MODEL or HF_MODEL"), ({"MODEL": "some/hub-name"}, "is no folder on this machine")):
            with Ready("generate.py", **variables) as worker:
                worker.hello()
                self.assertIn(told, worker.ready["message"])

    def test_the_kind_has_the_name_that_was_configured_and_older_versions_are_called_as_they_were(self):
        with Ready("generate.py", KIND="write", STANDIN_VERSION="4.50") as worker:
            self.assertEqual([kind["kind"] for kind in worker.hello()["kinds"]], ["write"])
            self.assertEqual(worker.ready, {"type": "ready", "models": ["small"]})
