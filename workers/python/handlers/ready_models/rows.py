"""The keys and values of several texts, side by side. Shorter texts are padded on the left, and a mask says what is padding."""

from __future__ import annotations

from typing import Any

Pairs = list[tuple[Any, Any]]


class UnknownCache(RuntimeError):
    """The model keeps something else than keys and values of every token."""


def pairs_of(cache: Any, tokens: int) -> Pairs:
    """Keys and values of each layer, each ``[rows, heads, tokens, size]``. ``UnknownCache``: there is none of that form."""
    pairs = _kept_by(cache)
    if not pairs or not all(_is_whole(each, tokens) for pair in pairs for each in pair):
        raise UnknownCache("the model does not keep keys and values of every token in transformers' DynamicCache, so its texts cannot be generated side by side")
    return pairs


def _kept_by(cache: Any) -> Pairs:
    # Before layers had objects of their own, there were two lists.
    if hasattr(cache, "layers"):
        return [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    return list(zip(getattr(cache, "key_cache", ()), getattr(cache, "value_cache", ())))


def _is_whole(each: Any, tokens: int) -> bool:
    return each is not None and len(each.shape) == 4 and each.shape[2] == tokens


class Rows:
    """What the model remembers of each text. ``lengths``: how many tokens of it."""

    def __init__(self, torch: Any, new_cache: Any, pairs: Pairs, mask: Any, lengths: list[int]) -> None:
        self._torch = torch
        self._new_cache = new_cache
        self.mask = mask
        self.lengths = lengths
        self.cache = new_cache()
        for layer, (keys, values) in enumerate(pairs):
            self.cache.update(keys, values, layer)

    @property
    def width(self) -> int:
        """Tokens of the longest text: the others are padded to it."""
        return int(self.mask.shape[1])

    def took(self, mask: Any) -> None:
        """The model was given one more token of each text, with this mask."""
        self.mask = mask
        self.lengths = [length + 1 for length in self.lengths]

    def wider_mask(self) -> Any:
        """The mask with a place for one more token of each text."""
        torch = self._torch
        return torch.cat([self.mask, torch.ones((len(self.lengths), 1), dtype=torch.long, device=self.mask.device)], dim=1)

    def restored(self) -> Rows:
        """The same, or, after a step that failed, as before it: some layers may have one token more than others."""
        width = self.width
        if all(keys.shape[2] == width for keys, _values in _kept_by(self.cache)):
            return self
        pairs = [(keys[:, :, :width], values[:, :, :width]) for keys, values in _kept_by(self.cache)]
        return Rows(self._torch, self._new_cache, pairs, self.mask, self.lengths)

    def kept(self, places: list[int]) -> Rows:
        """The texts at these places alone, no wider than the longest of them."""
        lengths = [self.lengths[place] for place in places]
        left = self.width - max(lengths)
        index = self._torch.tensor(places, dtype=self._torch.long, device=self.mask.device)
        pairs = [(keys.index_select(0, index)[:, :, left:], values.index_select(0, index)[:, :, left:]) for keys, values in self._pairs()]
        return Rows(self._torch, self._new_cache, pairs, self.mask.index_select(0, index)[:, left:], lengths)

    def beside(self, other: Rows) -> Rows:
        """These texts and, after them, the others."""
        width = max(self.width, other.width)
        pairs = [
            (self._torch.cat([self._padded(a, width), self._padded(b, width)], dim=0), self._torch.cat([self._padded(c, width), self._padded(d, width)], dim=0))
            for (a, c), (b, d) in zip(self._pairs(), other._pairs())
        ]
        masks = [self._padded_mask(rows.mask, width) for rows in (self, other)]
        return Rows(self._torch, self._new_cache, pairs, self._torch.cat(masks, dim=0), self.lengths + other.lengths)

    def _pairs(self) -> Pairs:
        return pairs_of(self.cache, self.width)

    def _padded(self, states: Any, width: int) -> Any:
        missing = width - states.shape[2]
        if missing == 0:
            return states
        rows, heads, _tokens, size = states.shape
        # Zeros: what is masked is multiplied by 0, and must be finite.
        padding = self._torch.zeros((rows, heads, missing, size), dtype=states.dtype, device=states.device)
        return self._torch.cat([padding, states], dim=2)

    def _padded_mask(self, mask: Any, width: int) -> Any:
        missing = width - mask.shape[1]
        if missing == 0:
            return mask
        return self._torch.cat([self._torch.zeros((mask.shape[0], missing), dtype=mask.dtype, device=mask.device), mask], dim=1)
