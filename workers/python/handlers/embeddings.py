"""Vectors of texts with a model of transformers, from a folder: the mean over each text's tokens, of length 1. See README.md beside this file."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, Union

from gpufleet import Batch, Fail, Gpu, context, task

from ready_models import places

places.offline()

KIND = os.environ.get("KIND") or "embeddings"
#: Most tokens of one call of the model, together.
TOKENS_MAX = places.whole("TOKENS_MAX", 16_384, 1 << 24)
PAYLOADS_MAX = places.whole("PAYLOADS_MAX", 64, 1024)
TEXTS_MAX = 1024


@dataclasses.dataclass
class Wanted:
    """A text or a list of them, and whether vectors come as raw bytes or as lists of numbers."""

    text: Union[str, list[str]]
    form: Literal["raw", "numbers"] = "raw"

    def texts(self) -> list[str]:
        """As a list."""
        return [self.text] if isinstance(self.text, str) else self.text


class Model:
    """The model of this process: what a payload costs is asked before any object of the task is."""

    tokenizer: Any = None
    tokens_max = 0

    @classmethod
    def ids(cls, wanted: Wanted) -> list[list[int]]:
        """The tokens of each text. ``Fail``: a text is longer than the model reads; none is cut."""
        texts = wanted.texts()
        if not 1 <= len(texts) <= TEXTS_MAX:
            raise Fail(f"must have 1 to {TEXTS_MAX} texts, not {len(texts)}", code="invalid_payload", field="text")
        # The name of a field of the payload, one level below it.
        name = (lambda place: "text") if isinstance(wanted.text, str) else (lambda place: f"text[{place}]")
        found: list[list[int]] = cls.tokenizer(texts)["input_ids"]
        for place, ids in enumerate(found):
            if not 1 <= len(ids) <= cls.tokens_max:
                raise Fail(f"has {len(ids)} tokens, and the model reads 1 to {cls.tokens_max}", code="invalid_payload", field=name(place))
        return found


def tokens(wanted: Wanted) -> float:
    """How large a payload is."""
    return float(sum(map(len, Model.ids(wanted))))


@task(KIND, batch=Batch(largest=PAYLOADS_MAX, wait_ms=2, size_max=TOKENS_MAX, size_of=tokens), about="Vectors of texts: the mean over each text's tokens, of length 1.")
class Embeddings:
    """The model. Payloads that wait together are one call of it, or a few where they have many tokens."""

    def setup(self, gpu: Gpu) -> None:
        import torch
        import transformers

        self._torch = torch
        path = places.folder("MODEL", "HF_MODEL")
        self._device = places.device_of(torch, gpu)
        Model.tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        self._model = places.load(transformers, transformers.AutoModel, path, places.dtype_named(torch, os.environ.get("DTYPE") or "auto")).to(self._device)
        places.check_device(self._model, self._device)
        Model.tokens_max = min(int(getattr(self._model.config, "max_position_embeddings", None) or 1 << 30), int(getattr(Model.tokenizer, "model_max_length", 1 << 30)))
        self.models = [path.name]

    def run(self, payloads: list[Wanted]) -> list[Any]:
        """The vectors of each payload."""
        every = [Model.ids(wanted) for wanted in payloads]
        vectors = self._vectors([ids for of_one in every for ids in of_one])
        answers, begin = [], 0
        for wanted, of_one in zip(payloads, every):
            rows = vectors[begin : begin + len(of_one)]
            begin += len(of_one)
            given = rows[0] if isinstance(wanted.text, str) else rows
            name = "vector" if isinstance(wanted.text, str) else "vectors"
            answers.append({name: given if wanted.form == "raw" else given.tolist(), "tokens": sum(map(len, of_one)), "model": self.models[0]})
        return answers

    def _vectors(self, every: list[list[int]]) -> Any:
        """A row for each. Texts of similar length go together: what is padded is computed for nothing."""
        torch = self._torch
        order = sorted(range(len(every)), key=lambda place: len(every[place]))
        found: list[Any] = [None] * len(every)
        with torch.inference_mode():
            for group in _groups(order, [len(ids) for ids in every]):
                context.raise_if_cancelled()
                for place, row in zip(group, self._called([every[place] for place in group])):
                    found[place] = row
            return torch.stack(found, dim=0).cpu().numpy()

    def _called(self, texts: list[list[int]]) -> Any:
        torch, width = self._torch, max(map(len, texts))
        # What stands in the padding is not read: the mask leaves it out.
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], dtype=torch.long, device=self._device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], dtype=torch.long, device=self._device)
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.to(torch.float32)
        weights = mask.unsqueeze(-1).to(torch.float32)
        means = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return torch.nn.functional.normalize(means, dim=-1)


def _groups(order: list[int], lengths: list[int]) -> list[list[int]]:
    """Neighbours in this order, such that no call has more than ``TOKENS_MAX`` tokens with its padding, unless one text alone has."""
    groups: list[list[int]] = []
    for place in order:
        if groups and (len(groups[-1]) + 1) * lengths[place] <= TOKENS_MAX:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups
