"""A TorchScript file (``model.pt``) or an exported program (``model.pt2``) from a folder: tensors in, tensors out, as raw bytes. See README.md beside this file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Optional

from gpufleet import Batch, Fail, Gpu, task

from ready_models import places

KIND = os.environ.get("KIND") or "torch"
#: Payloads whose arrays are joined along axis 0 for one call; 1 where that axis is none of a batch.
BATCH = places.whole("BATCH", 1, 1024)


class Loaded:
    """The model: how it is called, and what its inputs are called, in their order. ``outputs``: what `model.json` calls them, in theirs."""

    def __init__(self, torch: Any, path: Path, device: str) -> None:
        self.path = path
        script, exported = path / "model.pt", path / "model.pt2"
        if script.is_file() == exported.is_file():
            raise RuntimeError(f"{path} must have model.pt (TorchScript) or model.pt2 (an exported program), one of the two")
        self.call, self.inputs = _script(torch, script, device) if script.is_file() else _exported(torch, exported, device)
        self.outputs: list[str] = []
        names = path / "model.json"
        if names.is_file():
            said = json.loads(names.read_text(encoding="utf-8"))
            self.inputs, self.outputs = list(said.get("inputs", self.inputs)), list(said.get("outputs", []))

    def named(self, made: Any) -> dict[str, Any]:
        """What it returned, by name: tensors in a dict have names, others get those of `model.json`, or numbers."""
        if isinstance(made, dict):
            return {str(name): value for name, value in made.items()}
        several = list(made) if isinstance(made, (list, tuple)) else [made]
        names = self.outputs or (["output"] if len(several) == 1 else [f"output_{number}" for number in range(len(several))])
        if len(names) != len(several):
            raise Fail(f"the model gives {len(several)} outputs, and model.json names {len(names)}", code="wrong_outputs")
        return dict(zip(names, several))


def _script(torch: Any, file: Path, device: str) -> tuple[Callable[..., Any], list[str]]:
    module = torch.jit.load(str(file), map_location=device)
    module.eval()
    places.check_device(module, device)
    # The first is the module itself, whatever it is called.
    return module, [argument.name for argument in module.forward.schema.arguments[1:]]


def _exported(torch: Any, file: Path, device: str) -> tuple[Callable[..., Any], list[str]]:
    program = torch.export.load(str(file))
    if device != "cpu":
        # Also the constants that the program makes: moving its weights would leave them where they were.
        program = torch.export.passes.move_to_device_pass(program, device)
    module = program.module()
    places.check_device(module, device)
    return module, [str(name) for name in program.graph_signature.user_inputs]


class Runs:
    """What both forms of the task share."""

    def setup(self, gpu: Gpu) -> None:
        import torch

        self._torch = torch
        path = places.folder("MODEL", "TORCH_MODEL")
        self._device = places.device_of(torch, gpu)
        self._loaded = Loaded(torch, path, self._device)
        self.models = [path.name]

    def one(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The outputs of one payload."""
        return {"outputs": self._outputs(self._called(self._tensors(inputs)))}

    def several(self, payloads: list[dict[str, Any]]) -> list[Any]:
        """The outputs of several: one call for those whose arrays fit together."""
        answers: list[Any] = [None] * len(payloads)
        groups: dict[Any, list[tuple[int, list[Any]]]] = {}
        for place, inputs in enumerate(payloads):
            try:
                tensors = self._tensors(inputs)
                groups.setdefault(_together(tensors, place), []).append((place, tensors))
            except Exception as error:
                answers[place] = error
        for group in groups.values():
            for (place, _tensors), answer in zip(group, self._answers(group)):
                answers[place] = answer
        return answers

    def _answers(self, group: list[tuple[int, list[Any]]]) -> list[Any]:
        """Where they fail together each is tried alone: one payload's failure is its own."""
        joined = _kept(lambda: self._joined(group)) if len(group) > 1 else None
        if isinstance(joined, list):
            return joined
        if isinstance(joined, Fail):
            return [joined] * len(group)
        return [_kept(lambda: {"outputs": self._outputs(self._called(tensors))}) for _place, tensors in group]

    def _joined(self, group: list[tuple[int, list[Any]]]) -> list[Any]:
        rows = [int(tensors[0].shape[0]) for _place, tensors in group]
        made = self._called([self._torch.cat(list(column), dim=0) for column in zip(*(tensors for _place, tensors in group))])
        for name, output in made.items():
            if not output.shape or output.shape[0] != sum(rows):
                raise Fail(f"output {name} has the shape {tuple(output.shape)}, and {sum(rows)} rows went in: with BATCH above 1 axis 0 must be that of the batch", code="wrong_outputs")
        answers, begin = [], 0
        for count in rows:
            answers.append({"outputs": self._outputs({name: output[begin : begin + count] for name, output in made.items()})})
            begin += count
        return answers

    def _tensors(self, inputs: dict[str, Any]) -> list[Any]:
        """In the model's order, on the device. ``Fail``: a name is missing, unknown, or no array."""
        for name in inputs:
            if name not in self._loaded.inputs:
                raise Fail(f"the model has no such input; it has {', '.join(self._loaded.inputs)}", code="invalid_payload", field=f"inputs.{name}")
        for name in self._loaded.inputs:
            if name not in inputs:
                raise Fail("is missing", code="invalid_payload", field=f"inputs.{name}")
        return [self._tensor(name, inputs[name]) for name in self._loaded.inputs]

    def _tensor(self, name: str, value: Any) -> Any:
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            raise Fail("must be an array: raw bytes with dtype and shape", code="invalid_payload", field=f"inputs.{name}")
        if value.dtype.name == "bfloat16":
            # numpy has no such type; PyTorch reads the same bits.
            return self._torch.from_numpy(value.view("int16")).view(self._torch.bfloat16).to(self._device)
        return self._torch.from_numpy(value).to(self._device)

    def _called(self, tensors: list[Any]) -> dict[str, Any]:
        with self._torch.inference_mode():
            return self._loaded.named(self._loaded.call(*tensors))

    def _outputs(self, made: dict[str, Any]) -> dict[str, Any]:
        """On the host: here a fault of a kernel shows, and not after the answer."""
        return {name: output.detach().cpu() if hasattr(output, "detach") else output for name, output in made.items()}


def _together(tensors: list[Any], place: int) -> Optional[Any]:
    """What payloads must have alike to be one call. Arrays without a common axis 0 go alone."""
    if not tensors or any(not tensor.shape or tensor.shape[0] != tensors[0].shape[0] for tensor in tensors):
        return place
    return tuple((str(tensor.dtype), tuple(tensor.shape[1:])) for tensor in tensors)


def _kept(work: Callable[[], Any]) -> Any:
    """The outcome, also where it is an exception: of a batch it is one payload's own."""
    try:
        return work()
    except Exception as error:
        return error


ABOUT = "Runs a PyTorch model: arrays in by name, arrays out."

if BATCH == 1:

    @task(KIND, about=ABOUT)
    class Torch(Runs):
        """One payload is one call."""

        def run(self, inputs: dict[str, Any]) -> Any:
            """Calls the model."""
            return self.one(inputs)

else:

    @task(KIND, about=ABOUT, batch=Batch(largest=BATCH, wait_ms=2))
    class TorchBatches(Runs):
        """Payloads that wait together are one call."""

        def run(self, inputs: list[dict[str, Any]]) -> Any:
            """Calls the model."""
            return self.several(inputs)
