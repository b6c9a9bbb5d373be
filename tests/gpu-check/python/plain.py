"""Plain PyTorch beside the fleet: makes a small model in the folder that it is given, and answers a question a line. Ends with 3 without PyTorch, 4 without CUDA, 5 without transformers."""

import inspect
import json
import os
import sys
import time

try:
    import torch
except Exception:
    sys.exit(3)
if not torch.cuda.is_available():
    sys.exit(4)
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
try:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
except Exception:
    sys.exit(5)

folder = sys.argv[1]


def make():
    """Random weights and a tokenizer of bytes. The special tokens' numbers are 0 in every place, so that no text ends by itself."""
    torch.manual_seed(1)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, **{letter: number + 2 for number, letter in enumerate(letters)}}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=258, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=8, max_position_embeddings=2048,
        bos_token_id=0, eos_token_id=1, initializer_range=0.05, tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[:2] = 0.0
    model.save_pretrained(folder)


make()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval().to("cuda:0")
parameters = inspect.signature(model.forward).parameters
cache_name = "past_key_values" if "past_key_values" in parameters else "cache"


def generate(texts, tokens):
    """The likeliest tokens after each text; the texts have one length. A loop with nothing around it."""
    ids = torch.tensor(tokenizer(texts)["input_ids"], device="cuda:0")
    mask, cache, made = torch.ones_like(ids), transformers.DynamicCache(), []
    for _ in range(tokens):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=True, **{cache_name: cache}).logits[:, -1]
        ids = logits.argmax(dim=-1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        # Whoever serves text looks at each token: whether it ends the text.
        made.append(ids[:, 0].tolist())
    return [tokenizer.decode(list(row), skip_special_tokens=True) for row in zip(*made)]


def embed(text):
    """The mean over a text's tokens, of length 1."""
    ids = torch.tensor([tokenizer(text)["input_ids"]], device="cuda:0")
    states = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.float()
    return torch.nn.functional.normalize(states.mean(dim=1), dim=-1)[0].tolist()


def answer(asked):
    if asked["do"] == "embed":
        return {"vectors": [embed(text) for text in asked["texts"]]}
    if asked["do"] == "alone":
        return {"texts": [generate([text], asked["tokens"])[0] for text in asked["texts"]]}
    started = time.perf_counter()
    texts = generate(asked["texts"], asked["tokens"])
    return {"texts": texts, "seconds": time.perf_counter() - started}


print(json.dumps({"versions": f"PyTorch {torch.__version__}, transformers {transformers.__version__}"}), flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
