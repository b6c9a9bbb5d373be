"""Where a model lies and what it runs on. Nothing is downloaded, and nothing runs on the CPU in place of a real GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpufleet import Gpu


def folder(*variables: str) -> Path:
    """The folder that the first of these variables names. ``RuntimeError``: none does, or there is no such folder."""
    for variable in variables:
        named = os.environ.get(variable)
        if named:
            path = Path(named)
            if not path.is_dir():
                raise RuntimeError(f"{variable} is {named}, which is no folder on this machine: put the model's files there; models are never downloaded")
            return path
    raise RuntimeError(f"no model: name its folder in {' or '.join(variables)} (`environment:` of the handler); models are never downloaded")


def whole(variable: str, default: int, largest: int) -> int:
    """A whole number from the environment, 1 to ``largest``."""
    named = os.environ.get(variable) or str(default)
    if not named.isdecimal() or not 1 <= int(named) <= largest:
        raise ValueError(f"{variable} must be a whole number, 1 to {largest}, not {named!r}")
    return int(named)


def device_of(torch: Any, gpu: Gpu) -> str:
    """What PyTorch calls the GPU of this process. ``RuntimeError``: the GPU is real, and PyTorch cannot use it."""
    if gpu.simulated:
        return "cpu"
    if not torch.cuda.is_available():
        built = getattr(getattr(torch, "version", None), "cuda", None)
        why = "it was built without CUDA" if built is None else f"it was built for CUDA {built}, and finds no driver that fits"
        raise RuntimeError(f"PyTorch {torch.__version__} cannot use the GPU {gpu.id}: {why}. Install a build that fits the driver; the CPU is not used in its place")
    return gpu.device


def check_device(model: Any, device: str) -> None:
    """``RuntimeError``: a weight of the model is somewhere else than on the device."""
    wanted = device.partition(":")[0]
    for name, weight in model.named_parameters():
        if str(weight.device).partition(":")[0] != wanted:
            raise RuntimeError(f"the weight {name} is on {weight.device}, and the model is to run on {device}")


def load(transformers: Any, kind: Any, path: Path, dtype: Any) -> Any:
    """A model of transformers from a folder, ready to run. No code of the folder's is run: its weights must be safetensors."""
    # The name changed with version 5; the older ones do not know the newer name.
    name = "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"
    model = kind.from_pretrained(str(path), local_files_only=True, use_safetensors=True, trust_remote_code=False, **{name: dtype})
    model.eval()
    return model


def offline() -> None:
    """Says so to transformers, which reads these when it is imported."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


def dtype_named(torch: Any, named: str) -> Any:
    """``auto``, which is what the files have, or a type of PyTorch's."""
    if named == "auto":
        return named
    known = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}
    if named not in known:
        raise ValueError(f"DTYPE must be auto, {', '.join(known)}, not {named!r}")
    return getattr(torch, known[named])


def end_ids(*said: Any) -> frozenset[int]:
    """The tokens that end a text, from what a model and a tokenizer say: a number, several, or nothing."""
    found: set[int] = set()
    for each in said:
        if each is not None:
            found.update([each] if isinstance(each, int) else each)
    return frozenset(found)
