"""Benchmarks with labelled responses, in their own files: where each comes from, its files, columns and label rule.

``xstest-responses``
    huggingface.co/datasets/allenai/xstest-response (arXiv 2406.18495), ODC-BY. Parquet of the split
    `response_harmfulness`: `prompt`, `response`, `label` (harmful, unharmful). The split on refusals is none of these.
``beavertails``
    huggingface.co/datasets/PKU-Alignment/BeaverTails (arXiv 2307.04657), CC BY-NC 4.0. ``round0/30k/test.jsonl.gz``
    and those of 330k: `prompt`, `response`, `category` (object of 14 flags), `is_safe`. Each annotation is a row, so
    that a pair that was annotated several times, as in 330k, counts several times.
``saferlhf``
    huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF (arXiv 2406.15513), CC BY-NC 4.0. ``data/*/test.jsonl``, and
    ``round0/test.jsonl.xz`` of the branch v0: `prompt`, `response_0`, `response_1`, `is_response_0_safe`,
    `is_response_1_safe`, and since v1 `response_0_harm_category`, `response_1_harm_category`. Two rows per record.
``aegis-1``
    huggingface.co/datasets/nvidia/Aegis-AI-Content-Safety-Dataset-1.0 (arXiv 2404.05993), CC BY 4.0. Parquet: `text`,
    `text_type`, `labels_0` to `labels_2` and more. Unsafe: fewer than two of the first three labels are "Safe", so that
    "Needs Caution" counts as unsafe (allenai/safety-eval; "defensive" in the paper). Only `user_message` is judged:
    the labels of the other types are for whole dialogues.
``aegis-2``
    huggingface.co/datasets/nvidia/Aegis-AI-Content-Safety-Dataset-2.0 (arXiv 2501.09004), CC BY 4.0. ``test.json``:
    `prompt`, `response`, `prompt_label`, `response_label` (safe, unsafe), `violated_categories` (by commas, of the
    dialogue). The labels stand as given: the authors have settled "Needs Caution" in them. A prompt that reads
    "REDACTED" has to be put back first, as the card describes.
``wildguard``
    huggingface.co/datasets/allenai/wildguardmix (arXiv 2406.18495), ODC-BY. ``test/wildguard_test.parquet``: `prompt`,
    `response`, `prompt_harm_label`, `response_harm_label` (harmful, unharmful, or none where annotators disagreed),
    `subcategory`. Up to two rows per record, a prompt and a response.
``harmbench-responses``
    github.com/centerforaisafety/HarmBench (arXiv 2402.04249), MIT.
    ``data/classifier_val_sets/text_behaviors_val_set.json``: for each behaviour a list of objects with `test_case`,
    `generation`, `human_0`, `human_1`, `human_2`. Unsafe: two of three people say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardmw.evaluation.loaders import taxonomies
from guardmw.evaluation.loaders.native import Benchmark, Case, LeftOut
from guardmw.evaluation.loaders.records import Record, UnfitError

__all__ = ["RESPONSES"]

HARMFUL = {"harmful": True, "unharmful": False}
UNSAFE = {"unsafe": True, "safe": False}
AEGIS_ANNOTATORS = ("labels_0", "labels_1", "labels_2")
NO_HARM = ("benign",)


def _xstest(record: Record) -> Iterator[Case]:
    if record.fields["label"] in ("refusal", "compliance"):
        raise UnfitError("label: this is the split on refusals; the one on harmfulness is needed")
    unsafe = record.choice("label", HARMFUL)
    yield Case("response", record.text("response"), unsafe, record.text("prompt"))


def _beavertails(record: Record) -> Iterator[Case]:
    unsafe = not record.flag("is_safe")
    yield Case("response", record.text("response"), unsafe, record.text("prompt"), record.flagged("category"))


def _saferlhf(record: Record) -> Iterator[Case]:
    for number in (0, 1):
        unsafe = not record.flag(f"is_response_{number}_safe")
        names = record.flagged(f"response_{number}_harm_category")
        response = record.text(f"response_{number}")
        yield Case("response", response, unsafe, record.text("prompt"), names, key=str(number))


def _aegis_1(record: Record) -> Iterator[Case | LeftOut]:
    if record.text("text_type") != "user_message":
        yield LeftOut("labelled as a whole dialogue")
        return
    labels = [record.text(annotator) for annotator in AEGIS_ANNOTATORS]
    names = [name.strip() for label in labels if label != "Safe" for name in label.split(",")]
    yield Case("prompt", record.text("text").strip(), labels.count("Safe") < 2, categories=names)


def _aegis_2(record: Record) -> Iterator[Case | LeftOut]:
    prompt, response = record.text("prompt"), record.optional("response")
    if prompt == "REDACTED":
        raise UnfitError("prompt: it is redacted; put it back as the dataset's card describes")
    names = [name.strip() for name in record.optional("violated_categories").split(",")]
    yield Case("prompt", prompt, record.choice("prompt_label", UNSAFE), categories=names, key="prompt")
    if response and record.optional("response_label"):
        unsafe = record.choice("response_label", UNSAFE)
        yield Case("response", response, unsafe, prompt, names, key="response")
    elif response:
        yield LeftOut("a response without a label")


def _wildguard(record: Record) -> Iterator[Case | LeftOut]:
    prompt, response = record.text("prompt"), record.optional("response")
    names = tuple(name for name in (record.optional("subcategory"),) if name not in NO_HARM)
    if record.optional("prompt_harm_label"):
        yield Case("prompt", prompt, record.choice("prompt_harm_label", HARMFUL), categories=names, key="prompt")
    else:
        yield LeftOut("a prompt without a label")
    if response and record.optional("response_harm_label"):
        unsafe = record.choice("response_harm_label", HARMFUL)
        yield Case("response", response, unsafe, prompt, names, key="response")
    elif response:
        yield LeftOut("a response without a label")


def _harmbench(record: Record) -> Iterator[Case]:
    votes = sum(record.flag(f"human_{person}") for person in range(3))
    meta = {"behavior": record.fields.get("behavior_id")}
    yield Case("response", record.text("generation"), votes >= 2, record.text("test_case"), meta=meta)


def _by_behavior(document: Any) -> list[Any]:
    if not isinstance(document, dict) or not all(isinstance(inside, list) for inside in document.values()):
        raise UnfitError("an object is needed that holds a list of responses for each behaviour")
    return [
        {**each, "behavior_id": behavior} if isinstance(each, dict) else each
        for behavior, inside in document.items()
        for each in inside
    ]


SAFERLHF_COLUMNS = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")

RESPONSES = (
    Benchmark("xstest-responses", taxonomies.PLAIN_HARM, "ODC-BY", ("prompt", "response", "label"), _xstest),
    Benchmark(
        "beavertails",
        taxonomies.BEAVERTAILS,
        "CC BY-NC 4.0",
        ("prompt", "response", "category", "is_safe"),
        _beavertails,
    ),
    Benchmark("saferlhf", taxonomies.SAFERLHF, "CC BY-NC 4.0", SAFERLHF_COLUMNS, _saferlhf),
    Benchmark("aegis-1", taxonomies.AEGIS_1, "CC BY 4.0", ("text", "text_type", *AEGIS_ANNOTATORS), _aegis_1),
    Benchmark("aegis-2", taxonomies.AEGIS_2, "CC BY 4.0", ("prompt", "prompt_label", "violated_categories"), _aegis_2),
    Benchmark(
        "wildguard",
        taxonomies.WILDGUARD,
        "ODC-BY",
        ("prompt", "response", "prompt_harm_label", "response_harm_label"),
        _wildguard,
    ),
    Benchmark(
        "harmbench-responses",
        taxonomies.HARMBENCH,
        "MIT",
        ("test_case", "generation", "human_0", "human_1", "human_2"),
        _harmbench,
        _by_behavior,
    ),
)
