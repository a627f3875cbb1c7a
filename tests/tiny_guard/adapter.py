"""Makes a LoRA adapter for the tiny guard: one more lesson, learned beside weights that stay as they are.

    python -m tiny_guard.adapter EXAMPLES.jsonl MODEL_FOLDER ADAPTER_FOLDER

Runs in the environment of vLLM, as train.py does; the examples are of the same shape.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, Qwen3ForCausalLM

from tiny_guard.train import logits_of_answers, read, tell

SEED = 7
RATE, RANK = 3e-3, 8


def main(examples: Path, model_folder: Path, folder: Path) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(Qwen3ForCausalLM.from_pretrained(model_folder), config)
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=RATE)
    for group in read(examples, tokenizer):
        logits, targets = logits_of_answers(model.base_model.model, group, tokenizer.pad_token_id)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tell(f"loss {loss.item():.3f}")
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
