"""The loop that generates: it alone uses the model. Texts join between two steps and leave when they end, so a step is one call of the model for all texts that are under way.

::

    waiting ──► prefill (texts of one length together) ──► beside the others ──► step, step, … ──► ended
       ▲                                                        │ no memory
       └────────────────────────────────────────────────────────┘  the newest leaves until another has ended; what it has is kept
"""

from __future__ import annotations

import collections
import dataclasses
import gc
import inspect
import queue
import random
import sys
import threading
import traceback
from typing import Any, Callable, Optional

from gpufleet import Cancelled, Context, OutOfMemory

from .pieces import Pieces
from .rows import Rows, pairs_of

#: A text's progress is told after so many of its tokens.
PROGRESS_EVERY = 16


@dataclasses.dataclass(eq=False)
class Text:
    """One text: its prompt, how it is to be generated, and what was generated. ``ended`` is called once, with the text or what it failed with."""

    prompt: list[int]
    tokens_max: int
    temperature: float
    seed: int
    context: Context
    ended: Callable[[Any], None]
    pieces: Pieces
    made: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str = ""
    dropped: bool = False

    def drawn(self) -> float:
        """A number from 0 to 1 for the next token: the same in the same place of every text with this seed, however often it is asked for."""
        return random.Random((self.seed << 32) + len(self.made)).random()

    def is_unwanted(self) -> bool:
        """Whether nobody waits for it."""
        return self.dropped or self.context.cancelled()


class Generating:
    """The loop. ``texts_max`` are under way at once; others wait, as many as the handler runs at once."""

    def __init__(self, torch: Any, new_cache: Any, model: Any, *, device: str, ends: frozenset[int], texts_max: int) -> None:
        self._torch = torch
        self._new_cache = new_cache
        self._model = model
        self._device = device
        self._ends = ends
        self._texts_max = texts_max
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in parameters else "cache"
        self._takes_positions = "position_ids" in parameters
        # Only the last token's row of numbers is needed: of a long prompt, the others would take more memory than the model.
        self._keeping = next(({name: 1} for name in ("logits_to_keep", "num_logits_to_keep") if name in parameters), {})
        self._came: queue.SimpleQueue[Optional[Text]] = queue.SimpleQueue()
        self._waiting: collections.deque[Text] = collections.deque()
        self._texts: list[Text] = []
        self._rows: Optional[Rows] = None
        self._full = False
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="generating", daemon=True)

    def start(self) -> None:
        """Tries the model, and begins. ``UnknownCache``: texts cannot be generated side by side with it."""
        with self._torch.inference_mode():
            self._prefilled([[0, 0]])
        self._thread.start()

    def submit(self, text: Text) -> None:
        """Takes a text, from any thread. ``RuntimeError``: the loop has ended."""
        if not self.is_alive():
            raise RuntimeError("the loop that generates has ended")
        self._came.put(text)

    def stop(self) -> None:
        """Ends the loop; texts that are under way end as cancelled."""
        self._came.put(None)
        self._thread.join()

    def is_alive(self) -> bool:
        """Whether the loop goes on."""
        return self._thread.is_alive()

    # The loop's thread.

    def _work(self) -> None:
        try:
            with self._torch.inference_mode():
                while not self._stopping:
                    self._take()
                    self._leave()
                    self._join()
                    self._step()
        finally:
            # Also where the loop itself has failed: nobody is left waiting.
            for text in [*self._texts, *self._waiting]:
                text.ended(Cancelled())

    def _take(self) -> None:
        """Takes what came; waits where there is nothing to do."""
        idle = not self._texts and not self._waiting
        while idle or not self._came.empty():
            came = self._came.get()
            idle = False
            if came is None:
                self._stopping = True
            else:
                self._waiting.append(came)

    def _leave(self) -> None:
        """Lets texts go that nobody waits for."""
        for text in [each for each in self._waiting if each.is_unwanted()]:
            self._waiting.remove(text)
            text.ended(Cancelled())
        self._let_go([text for text in self._texts if text.is_unwanted()], Cancelled)

    def _let_go(self, leaving: list[Text], failure: Optional[Callable[[], BaseException]]) -> None:
        if not leaving:
            return
        places = [place for place, text in enumerate(self._texts) if text not in leaving]
        self._texts = [self._texts[place] for place in places]
        self._narrow(places)
        self._full = False
        for text in leaving:
            text.ended(text if failure is None else failure())

    def _narrow(self, places: list[int]) -> None:
        """Keeps the rows of the texts that are left. Where there is not even memory for that, these begin again, one after the other, with what they have."""
        rows, self._rows = self._rows, None
        if rows is None or not places:
            return
        kept: list[Rows] = []
        if self._tried(lambda: kept.append(rows.restored().kept(places))) is None:
            self._rows = kept[0]
            return
        self._waiting.extendleft(reversed(self._texts))
        self._texts = []

    def _join(self) -> None:
        """Begins texts that wait, while there is a place: those whose prompts have the same length together, so that nothing is padded in what they begin with."""
        while self._waiting and len(self._texts) < self._texts_max and not self._full and not self._stopping:
            tokens = _tokens(self._waiting[0])
            room = self._texts_max - len(self._texts)
            group = [text for text in self._waiting if _tokens(text) == tokens][:room]
            for text in group:
                self._waiting.remove(text)
            self._begin(group)

    def _begin(self, group: list[Text]) -> None:
        failure = self._tried(lambda: self._joined(group))
        if failure is None:
            self._ended_ones()
        elif not isinstance(failure, OutOfMemory):
            for text in group:
                text.ended(_again(failure))
        elif len(group) > 1:
            for place, text in enumerate(group):
                if self._full:
                    self._waiting.extendleft(reversed(group[place:]))
                    return
                self._begin([text])
        elif self._texts:
            # One that leaves makes room.
            self._full = True
            self._waiting.appendleft(group[0])
        else:
            group[0].ended(failure)

    def _joined(self, group: list[Text]) -> None:
        logits, rows = self._prefilled([text.prompt + text.made for text in group])
        merged = rows if self._rows is None else self._rows.beside(rows)
        chosen = self._chosen(logits, group)
        self._rows, self._texts = merged, self._texts + group
        self._add(group, chosen)

    def _prefilled(self, prompts: list[list[int]]) -> tuple[Any, Rows]:
        torch, tokens = self._torch, len(prompts[0])
        ids = torch.tensor(prompts, dtype=torch.long, device=self._device)
        mask = torch.ones((len(prompts), tokens), dtype=torch.long, device=self._device)
        positions = torch.tensor([list(range(tokens))] * len(prompts), dtype=torch.long, device=self._device)
        cache = self._new_cache()
        logits = self._called(ids, mask, positions, cache)
        return logits, Rows(torch, self._new_cache, pairs_of(cache, tokens), mask, [tokens] * len(prompts))

    def _called(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        """The model's numbers for the next token of each row. The cache grows."""
        given = {"position_ids": positions} if self._takes_positions else {}
        answer = self._model(input_ids=ids, attention_mask=mask, use_cache=True, **{self._cache_name: cache}, **given, **self._keeping)
        return answer.logits[:, -1]

    def _step(self) -> None:
        """One more token of each text."""
        if self._rows is None or self._stopping:
            return
        failure = self._tried(self._stepped)
        if failure is None:
            self._ended_ones()
        elif not isinstance(failure, OutOfMemory):
            failed, self._texts, self._rows, self._full = self._texts, [], None, False
            for text in failed:
                text.ended(_again(failure))
        else:
            self._make_room(failure)

    def _stepped(self) -> None:
        torch, rows = self._torch, self._rows
        assert rows is not None
        ids = torch.tensor([[text.made[-1]] for text in self._texts], dtype=torch.long, device=self._device)
        positions = torch.tensor([[length] for length in rows.lengths], dtype=torch.long, device=self._device)
        mask = rows.wider_mask()
        logits = self._called(ids, mask, positions, rows.cache)
        chosen = self._chosen(logits, self._texts)
        rows.took(mask)
        self._add(self._texts, chosen)

    def _make_room(self, failure: OutOfMemory) -> None:
        """The newest text waits until another has ended; the last one that is left has failed."""
        newest = self._texts.pop()
        if not self._texts:
            self._rows, self._full = None, False
            newest.ended(failure)
            return
        self._waiting.appendleft(newest)
        self._full = True
        self._narrow(list(range(len(self._texts))))
        # Where none is left, there is no other to wait for.
        self._full = bool(self._texts)

    def _chosen(self, logits: Any, texts: list[Text]) -> list[int]:
        """The next token of each. The likeliest, or, with a temperature, where the drawn number falls among the probabilities."""
        torch = self._torch
        chosen = [int(token) for token in torch.argmax(logits, dim=-1).tolist()]
        warm = [place for place, text in enumerate(texts) if text.temperature > 0]
        if not warm:
            return chosen
        index = torch.tensor(warm, dtype=torch.long, device=self._device)
        heat = torch.tensor([[texts[place].temperature] for place in warm], dtype=torch.float64, device=self._device)
        sums = torch.cumsum(torch.softmax(logits.index_select(0, index).to(torch.float64) / heat, dim=-1), dim=-1)
        drawn = torch.tensor([[texts[place].drawn()] for place in warm], dtype=torch.float64, device=self._device)
        fell = (sums < drawn * sums[:, -1:]).sum(dim=-1).tolist()
        for place, token in zip(warm, fell):
            chosen[place] = int(token)
        return chosen

    def _add(self, texts: list[Text], chosen: list[int]) -> None:
        for text, token in zip(texts, chosen):
            if token in self._ends:
                text.finish_reason = "stop"
                continue
            text.made.append(token)
            if len(text.made) >= text.tokens_max:
                text.finish_reason = "length"
            self._tell(text)

    def _tell(self, text: Text) -> None:
        if text.context.wants_parts:
            piece = text.pieces.next(text.made)
            if piece:
                text.context.part(piece)
        if len(text.made) % PROGRESS_EVERY == 0:
            text.context.progress(len(text.made) / text.tokens_max, f"{len(text.made)} tokens")

    def _ended_ones(self) -> None:
        ended = [text for text in self._texts if text.finish_reason]
        for text in ended:
            rest = text.pieces.next(text.made, last=True)
            if rest and text.context.wants_parts:
                text.context.part(rest)
        self._let_go(ended, None)

    def _tried(self, work: Callable[[], None]) -> Optional[BaseException]:
        """What it failed with: ``OutOfMemory`` where memory was too small."""
        try:
            work()
            return None
        except Exception as error:
            if not _is_out_of_memory(error):
                traceback.print_exc(file=sys.stderr)
                return error
            told = str(error)
        # Here nothing holds the failed call's tensors any more.
        self._free()
        return OutOfMemory(told)

    def _free(self) -> None:
        gc.collect()
        if self._device != "cpu":
            self._torch.cuda.empty_cache()


def _tokens(text: Text) -> int:
    return len(text.prompt) + len(text.made)


def _again(error: BaseException) -> RuntimeError:
    """The same failure for one of several texts: each is told in a thread of its own, and an exception belongs to one."""
    return RuntimeError(f"generating failed: {type(error).__name__}: {error}")


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__) or "CUDA out of memory" in str(error)
