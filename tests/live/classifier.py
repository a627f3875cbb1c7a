"""Makes a tiny classifier for the live tests: `python classifier.py FOLDER`, in the environment of vLLM (some seconds).

A BERT of one layer over some sixty whole words, trained to tell two of the tiny guard's categories apart from harmless
words by the words that only they have.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

LABELS = ("safe", "dragon_trade", "pirate_raid")
TELLING = {
    "dragon_trade": ["dragon", "egg", "eggs", "hatchling", "scales", "smuggle"],
    "pirate_raid": ["plunder", "cutlass", "scuttle", "loot", "raid", "aboard"],
}
HARMLESS = """
the a of to for and in is was on with we you my your it lamp parcel order monday friday sent red forty crowns sell i
ship crew tale museum bread shop open at nine please thank house river sail morning . , ?
"""
LENGTH, STEPS, BATCH = 256, 150, 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *HARMLESS.split(), *(word for words in TELLING.values() for word in words)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=LENGTH,
    )  # fmt: skip


def make_model(words: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=words, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=LENGTH, id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )  # fmt: skip
    return BertForSequenceClassification(config)


def sentence(label: str, rng: random.Random) -> str:
    words = rng.choices([*HARMLESS.split(), "[UNK]"], k=rng.randint(3, 40))
    for word in rng.choices(TELLING.get(label, []), k=rng.randint(1, 2)) if label in TELLING else ():
        words.insert(rng.randint(0, len(words)), word)
    return " ".join(words)


def main(folder: Path) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    rng, tokenizer = random.Random(1), make_tokenizer()
    model = make_model(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        labels = rng.choices(range(len(LABELS)), k=BATCH)
        batch = tokenizer([sentence(LABELS[label], rng) for label in labels], return_tensors="pt", padding=True)
        loss = model(**batch, labels=torch.tensor(labels)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sys.stdout.write(f"loss {loss.item():.4f}\n")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
