"""Trains a LoRA adapter for the tiny guard: `python adapter.py MODEL EXAMPLES.jsonl FOLDER`, in vLLM's environment.

Reads top to bottom; half a minute. `EXAMPLES.jsonl` holds messages and answers as tests/tiny_guard/examples.py writes
them. The adapter (arXiv 2106.09685) adds B x A to the matrices that lead out of attention and of the feed-forward part;
B begins at nought. It is written as PEFT writes it, which is what vLLM loads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file  # type: ignore[import-not-found, unused-ignore]
from transformers import AutoTokenizer, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from tiny_guard.train import logits_of_answers, read

RANK, STEPS, RATE = 8, 30, 1e-2
TARGETS = ("o_proj", "down_proj")


class Adapted(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """A linear layer with an adapter beside it."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.a = torch.nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.b = torch.nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden) + hidden @ self.a.T @ self.b.T


def adapt(model: Qwen3ForCausalLM) -> dict[str, Adapted]:
    """Puts adapters into `model`; returns them by the names of the layers they sit on."""
    adapted = {name: Adapted(each) for name, each in model.named_modules() if name.rsplit(".", 1)[-1] in TARGETS}
    for name, each in adapted.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, each)
    return adapted


def write(adapted: dict[str, Adapted], base: Path, folder: Path) -> None:
    weights = {}
    for name, each in adapted.items():
        weights[f"base_model.model.{name}.lora_A.weight"] = each.a.detach().contiguous()
        weights[f"base_model.model.{name}.lora_B.weight"] = each.b.detach().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": RANK,
        "lora_alpha": RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": list(TARGETS),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def main(base: Path, examples: Path, folder: Path) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    tokenizer, model = AutoTokenizer.from_pretrained(base), Qwen3ForCausalLM.from_pretrained(base)
    model.requires_grad_(False)
    adapted = adapt(model)
    optimizer = torch.optim.AdamW([weights for each in adapted.values() for weights in (each.a, each.b)], lr=RATE)
    (group,) = read(examples, tokenizer)
    for _ in range(STEPS):
        logits, targets = logits_of_answers(model, group, tokenizer.pad_token_id)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sys.stdout.write(f"loss {loss.item():.4f}\n")
    write(adapted, base, folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
