"""Stands in for transformers in tests. Its model computes the next token from every token of the text, its place, and nothing else, by exact arithmetic: a mixed-up row, a wrong position or a
padding that is read would show in the text. Prompts steer it:

- ``~`` anywhere: the text does not end by itself;
- ``?`` anywhere: the model raises; ``!``: it raises what PyTorch says of a fault on the GPU.

``STANDIN_TOKENS``: the memory, in tokens of all rows together, padding included. ``STANDIN_LOG``: a file with a line for each call, the rows of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch
from torch import Tensor

__version__ = os.environ.get("STANDIN_VERSION", "5.0.standin")
BOS, EOS, BYTES = 1, 2, 3
VOCABULARY = BYTES + 256
#: What texts are made of: characters of one, two and three bytes.
CHARACTERS = "abcdefg hijk é ß 漢 字 ."


class _Layer:
    keys = values = None


class DynamicCache:
    def __init__(self):
        self.layers = []

    def update(self, keys, values, layer):
        while len(self.layers) <= layer:
            self.layers.append(_Layer())
        kept = self.layers[layer]
        kept.keys = keys if kept.keys is None else torch.cat([kept.keys, keys], dim=2)
        kept.values = values if kept.values is None else torch.cat([kept.values, values], dim=2)
        return kept.keys, kept.values


class _Tokenizer:
    eos_token_id = EOS
    model_max_length = 1 << 40
    chat_template = "as below"

    @classmethod
    def from_pretrained(cls, path, *, local_files_only, trust_remote_code):
        assert local_files_only and not trust_remote_code and os.environ["HF_HUB_OFFLINE"] == "1"
        return cls()

    def __call__(self, text, add_special_tokens=True):
        one = lambda each: [BOS] * (add_special_tokens and bool(each)) + [BYTES + byte for byte in each.encode()]
        return {"input_ids": one(text) if isinstance(text, str) else [one(each) for each in text]}

    def apply_chat_template(self, chat, *, add_generation_prompt, tokenize):
        assert add_generation_prompt and not tokenize
        if chat[0]["role"] == "assistant":
            raise ValueError("begin with a user's message")
        return "".join(f"{turn['role']}:{turn['content']}|" for turn in chat)

    def decode(self, tokens, *, skip_special_tokens):
        assert skip_special_tokens
        return bytes(token - BYTES for token in tokens if token >= BYTES).decode(errors="replace")


class _Model:
    def __init__(self, path):
        self.config = SimpleNamespace(max_position_embeddings=int((Path(path) / "context").read_text()), is_encoder_decoder=False)
        self.generation_config = SimpleNamespace(eos_token_id=[EOS])
        self.device = "cpu"

    @classmethod
    def from_pretrained(cls, path, *, local_files_only, use_safetensors, trust_remote_code, **dtype):
        assert local_files_only and use_safetensors and not trust_remote_code
        assert list(dtype) == ["dtype" if __version__.startswith("5") else "torch_dtype"]
        return cls(path)

    def eval(self):
        return self

    def to(self, device):
        if os.environ.get("STANDIN_STAYS") != "1":
            self.device = device
        return self

    def named_parameters(self):
        return [("weight", Tensor([1.0], self.device))]

    def __call__(self, **given):
        return self.forward(**given)

    def log(self, rows):
        if "STANDIN_LOG" in os.environ:
            with open(os.environ["STANDIN_LOG"], "a") as log:
                log.write(f"{rows}\n")


class AutoModelForCausalLM(_Model):
    def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep):
        assert input_ids.device == attention_mask.device == position_ids.device == self.device and use_cache and logits_to_keep == 1
        rows, _ = input_ids.shape
        self.log(rows)
        ids, places = input_ids.array.astype("float64"), position_ids.array.astype("float64")
        for layer in range(2):
            keys = Tensor((ids * (places + 1 + layer))[:, None, :, None], self.device)
            values = Tensor(((ids + 7) * (places * places % 101))[:, None, :, None], self.device)
            keys, values = past_key_values.update(keys, values, layer)
            if rows * keys.shape[2] > int(os.environ.get("STANDIN_TOKENS", 1 << 40)):
                # As in PyTorch: one layer has grown, and the next has not.
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        assert attention_mask.shape == (rows, keys.shape[2]), "the mask does not fit the cache"
        mask = attention_mask.array
        sums = ((keys.array * 31 + values.array + 5)[:, 0, :, 0] * mask).sum(axis=1) % 9973
        logits = numpy.stack([self._next(row, int(total)) for row, total in enumerate(sums)])
        self._steered(keys.array[:, 0, :, 0], position_ids)
        last = [self._begun(int(row[-1])) for row in input_ids.array]
        for row, following in enumerate(last):
            if following is not None:
                logits[row] = 0.0
                logits[row, following] = 40.0
        for row in range(rows):
            if self._endless[row] and logits[row].argmax() == EOS:
                logits[row, EOS] = 0.0
        return SimpleNamespace(logits=Tensor(logits[:, None, :], self.device))

    def _next(self, row, total):
        logits = (total + numpy.arange(VOCABULARY) * 7) % 11 / 3.0
        chosen = EOS if total % 41 == 0 else BYTES + CHARACTERS[total % len(CHARACTERS)].encode()[0]
        # A text that is drawn steers nothing.
        logits[[BYTES + ord(letter) for letter in "~?!"]] = -50.0
        logits[chosen] = 6.0
        return logits

    def _steered(self, keys, position_ids):
        """What the prompts ask for: a key of the first token at place p is its number times p + 2, and the newest place is the text's last."""
        self._endless = []
        for row, newest in zip(keys, position_ids.array[:, -1]):
            real = row[len(row) - int(newest) - 1 :]
            text = {round(key / (place + 2)) - BYTES for place, key in enumerate(real)}
            if ord("!") in text:
                raise RuntimeError("CUDA error: device-side assert triggered")
            if ord("?") in text:
                raise ValueError("the model cannot")
            self._endless.append(ord("~") in text)

    def _begun(self, token):
        """The next byte of a character that has begun."""
        return {0xC3: BYTES + 0xA9, 0xE6: BYTES + 0xBC, 0xBC: BYTES + 0xA2, 0xE5: BYTES + 0xAD, 0xAD: BYTES + 0x97}.get(token - BYTES)


class AutoModel(_Model):
    def forward(self, input_ids, attention_mask):
        assert input_ids.device == attention_mask.device == self.device
        self.log(len(input_ids))
        if input_ids.array.size > int(os.environ.get("STANDIN_TOKENS", 1 << 40)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        ids = input_ids.array.astype("float32")
        states = numpy.stack([ids, ids * ids % 17, numpy.arange(ids.shape[1]) + ids * 0], axis=-1)
        # In the padding stands what must not be read.
        states[attention_mask.array == 0] = 1e6
        return SimpleNamespace(last_hidden_state=Tensor(states, self.device))


AutoTokenizer = _Tokenizer
