"""The code of docs/handlers.md, as it stands there."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs/handlers.md"


class Page(unittest.TestCase):
    def test_its_code_runs_in_order(self):
        blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
        self.assertGreater(len(blocks), 3)
        names = {"__name__": __name__}
        for block in blocks:
            exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)  # noqa: S102
        names["Count"].local_close()
