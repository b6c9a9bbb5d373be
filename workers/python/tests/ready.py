"""A ready handler in a process of its own, with stand-ins for PyTorch and transformers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from .fake_worker import PACKAGE, Worker

STANDINS = Path(__file__).resolve().parent / "standin"


class Ready(Worker):
    """The handler of this file, with a model whose context has so many tokens."""

    def __init__(self, file: str, context: int = 4096, **variables: str) -> None:
        self._model = tempfile.TemporaryDirectory(prefix="gpufleet-model-")
        self.model = Path(self._model.name) / "small"
        self.model.mkdir()
        (self.model / "context").write_text(str(context))
        (self.model / "model.pt").write_text('["x", "y"]')
        self.log = Path(self._model.name) / "log"
        path = os.pathsep.join([str(PACKAGE), str(STANDINS)])
        environment = {"PYTHONPATH": path, "MODEL": str(self.model), "STANDIN_LOG": str(self.log), **variables}
        super().__init__("", arguments=[str(PACKAGE / "handlers" / file)], environment=environment)

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._model.cleanup()

    def calls(self) -> list[int]:
        """The rows of each call of the model so far."""
        return [int(line) for line in self.log.read_text().split()]

    def several(self, count: int) -> tuple[dict[int, dict[str, Any]], dict[int, list[Any]]]:
        """The answers to so many runs, and the parts of each."""
        answers: dict[int, dict[str, Any]] = {}
        parts: dict[int, list[Any]] = {}
        while len(answers) < count:
            came = self.next("result", "error", "part")
            if came["type"] == "part":
                parts.setdefault(came["run"], []).append(came["value"])
            else:
                answers[came["run"]] = came
        return answers, parts
