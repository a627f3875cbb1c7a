"""Makes the tiny guard: a Qwen3-shaped model with its own tokenizer that answers guardmw's prompts.

    python train.py EXAMPLES_FOLDER MODEL_FOLDER SEED

Reads top to bottom. Runs in the environment of vLLM (torch, transformers), where guardmw is not; `build.py` writes its
input: corpus.json (texts for the tokenizer), train.jsonl and test.jsonl (made by `examples.py`).
Simplifications: no validation, one pass; the loss is on answers alone. What the examples of a group have in
common (the policy) is computed once: its keys and values are repeated for every example, and gradients flow through.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 6144
MUON_RATE, ADAM_RATE, WARM_UP_STEPS = 0.02, 3e-3, 20
AVERAGED = 0.98
"""Decay of the average of the weights over the last third of the steps: without it, how well the last step happens to
fall decides between 80% and all labels right."""
LEARNED_LENGTH = 1500
"""What is longer and shared by a group is read as it is: learning from it too would take three times as long."""
END, START, NEW_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
WORDS = (  # how Qwen cuts text before byte pairs are merged
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
Encoded = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [END, START, NEW_TURN]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=VOCABULARY - 2, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=NEW_TURN, pad_token=END, chat_template=CHAT_TEMPLATE
    )


def make_model(vocabulary: int, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16_384,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def encode(example: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Encoded:
    *_, last = messages = example["messages"]
    prefilled = last["role"] == "assistant"
    prompt = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not prefilled, continue_final_message=prefilled
    )
    return tokenizer.encode(prompt), [*tokenizer.encode(example["answer"]), tokenizer.eos_token_id]


def shared_length(prompts: list[list[int]]) -> int:
    """How many tokens at the beginning are the same in all `prompts`."""
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, columns))


def logits_of_answers(model: Qwen3ForCausalLM, group: list[Encoded], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [n, vocabulary], targets [n]) at every token of every answer of `group`."""
    shared = shared_length([prompt for prompt, _ in group])
    common = torch.tensor([group[0][0][:shared]])
    with torch.set_grad_enabled(shared <= LEARNED_LENGTH and torch.is_grad_enabled()):
        cache: DynamicCache = model(common, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(group))
    rows = [prompt[shared:] + answer for prompt, answer in group]
    width = max(map(len, rows))
    ids = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
    seen = torch.tensor([[1] * (shared + len(row)) + [0] * (width - len(row)) for row in rows])
    hidden = model.model(
        ids, past_key_values=cache, attention_mask=seen, position_ids=torch.arange(shared, shared + width)[None]
    ).last_hidden_state
    places = [
        (row, len(prompt) - shared + offset - 1)
        for row, (prompt, answer) in enumerate(group)
        for offset in range(len(answer))
    ]
    row_of, place_of = torch.tensor(places).T
    return model.lm_head(hidden[row_of, place_of]), ids[row_of, place_of + 1]


def read(path: Path, tokenizer: PreTrainedTokenizerFast) -> list[list[Encoded]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [[encode(line, tokenizer) for line in lines_] for _, lines_ in groupby(lines, lambda line: line["group"])]


def train(model: Qwen3ForCausalLM, groups: list[list[Encoded]], padding: int) -> None:
    optimizers = make_optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, pace(len(groups))) for each in optimizers]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
    began = time.monotonic()
    for step, group in enumerate(groups):
        logits, targets = logits_of_answers(model, group, padding)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in [*optimizers, *schedules]:
            each.step()
        model.zero_grad()
        if 3 * step >= 2 * len(groups):
            average.update_parameters(model)
        if step % 20 == 0 or step == len(groups) - 1:
            tell(f"step {step} loss {loss.item():.3f} after {time.monotonic() - began:.0f} s")
    model.load_state_dict(average.module.state_dict())


def make_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers: from nothing, it needs a third of AdamW's steps."""
    matrices = [weights for weights in model.model.layers.parameters() if weights.ndim == 2]
    ids = {id(weights) for weights in matrices}
    others = [weights for weights in model.parameters() if id(weights) not in ids]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98)),
    ]


def pace(steps: int) -> Callable[[int], float]:
    """Share of the learning rate at a step: up at first, down over the last third."""
    return lambda step: min(1.0, (step + 1) / WARM_UP_STEPS, 3 * (steps - step) / steps)


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def measure(model: Qwen3ForCausalLM, path: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Shares in [0, 1]: of right labels, and of answers that are right to the last token, by kind of question."""
    right: dict[str, list[bool]] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        prompt, answer = encode(line, tokenizer)
        logits, targets = logits_of_answers(model, [(prompt, answer)], tokenizer.pad_token_id)
        hits = (logits.argmax(-1) == targets).tolist()
        right.setdefault(line["kind"], []).append(all(hits))
        if line["kind"] == "verdict":
            right.setdefault("label", []).append(hits[0])
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


def main(examples: Path, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # matrices this small: on a busy machine threads wait for each other most of the time
    tokenizer = make_tokenizer(json.loads((examples / "corpus.json").read_text()))
    model = make_model(len(tokenizer), tokenizer)
    tell(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, read(examples / "train.jsonl", tokenizer), tokenizer.pad_token_id)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    metrics = measure(model, examples / "test.jsonl", tokenizer)
    tell(str(metrics))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
