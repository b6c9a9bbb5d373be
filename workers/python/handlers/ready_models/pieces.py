"""A text in pieces of whole characters, while its tokens come."""

from __future__ import annotations

from typing import Callable


class Pieces:
    """Tokens become text: a character may take several of them, and a space may show only with the next one."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._from = 0
        self._told = 0
        self.text = ""

    def next(self, tokens: list[int], *, last: bool = False) -> str:
        """What the newest tokens add to the text; nothing while they end within a character, unless no more come."""
        if self._told == len(tokens):
            return ""
        before = self._decode(tokens[self._from : self._told])
        now = self._decode(tokens[self._from :])
        if not last and (now.endswith("\ufffd") or len(now) <= len(before)):
            return ""
        self._from, self._told = self._told, len(tokens)
        piece = now[len(before) :]
        self.text += piece
        return piece
