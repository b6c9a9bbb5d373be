"""Text generation with a causal language model of transformers, from a folder. See README.md beside this file."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any, Literal, Optional, TypedDict

from gpufleet import Context, Fail, Gpu, Range, task

from ready_models import places

places.offline()

KIND = os.environ.get("KIND") or "generate"
TEXTS_MAX = places.whole("TEXTS_MAX", 8, 256)
TOKENS_MAX = places.whole("TOKENS_MAX", 1024, 1 << 20)
TOKENS = min(places.whole("TOKENS", 256, 1 << 20), TOKENS_MAX)


class Turn(TypedDict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


@task(KIND, concurrency=TEXTS_MAX, about="Continues a text, or answers a conversation, with a language model.")
class Generate:
    """The model and its loop; `run` only waits for it."""

    def setup(self, gpu: Gpu) -> None:
        import torch
        import transformers
        from ready_models.generating import Generating

        path = places.folder("MODEL", "HF_MODEL")
        device = places.device_of(torch, gpu)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        model = places.load(transformers, transformers.AutoModelForCausalLM, path, places.dtype_named(torch, os.environ.get("DTYPE") or "auto")).to(device)
        places.check_device(model, device)
        if getattr(model.config, "is_encoder_decoder", False):
            raise RuntimeError(f"the model in {path} reads one text and writes another (encoder and decoder); this handler takes those that continue a text")
        self._context_max = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        ends = places.end_ids(getattr(getattr(model, "generation_config", None), "eos_token_id", None), getattr(self._tokenizer, "eos_token_id", None))
        self._generating = Generating(torch, transformers.DynamicCache, model, device=device, ends=ends, texts_max=TEXTS_MAX)
        self._generating.start()
        self.models = [path.name]

    async def run(
        self,
        context: Context,
        *,
        text: Optional[str] = None,
        chat: Optional[list[Turn]] = None,
        max_length: Annotated[int, Range(ge=1, le=TOKENS_MAX)] = TOKENS,
        temperature: Annotated[float, Range(ge=0, le=2)] = 0.0,
        seed: Annotated[int, Range(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Waits for the text. Its pieces are parts."""
        from ready_models.generating import Text
        from ready_models.pieces import Pieces

        prompt = self._prompt(text, chat)
        room = self._context_max - len(prompt)
        if room < 1:
            raise Fail(f"has {len(prompt)} tokens, and the model's context {self._context_max}", code="invalid_payload", field="text" if chat is None else "chat")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def settle(outcome: Any) -> None:
            if not answer.done():
                answer.set_exception(outcome) if isinstance(outcome, BaseException) else answer.set_result(outcome)

        made = Text(
            prompt, min(max_length, room), temperature, seed, context, ended=lambda outcome: _later(loop, settle, outcome), pieces=Pieces(self._decoded),
        )  # fmt: skip
        self._generating.submit(made)
        try:
            await answer
        finally:
            made.dropped = True
        return {"text": made.pieces.text, "tokens": len(made.made), "finish_reason": made.finish_reason, "model": self.models[0]}

    def _prompt(self, text: Optional[str], chat: Optional[list[Turn]]) -> list[int]:
        if (text is None) == (chat is None):
            raise Fail("give either text or chat", code="invalid_payload", field="text")
        if chat is None:
            tokens = self._tokenizer(text)["input_ids"]
        elif not getattr(self._tokenizer, "chat_template", None):
            raise Fail("the model has no template for conversations: give text", code="invalid_payload", field="chat")
        else:
            try:
                written = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            except Exception as error:
                # A template says with an exception of its own which order of roles it wants.
                raise Fail(f"does not fit the model's template: {error}", code="invalid_payload", field="chat") from None
            tokens = self._tokenizer(written, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise Fail("must be text that is not empty", code="invalid_payload", field="text" if chat is None else "chat")
        return list(tokens)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def health(self) -> bool:
        return self._generating.is_alive()

    def teardown(self) -> None:
        self._generating.stop()


def _later(loop: asyncio.AbstractEventLoop, settle: Any, outcome: Any) -> None:
    try:
        loop.call_soon_threadsafe(settle, outcome)
    except RuntimeError:
        # The loop is closed: nobody waits.
        pass
