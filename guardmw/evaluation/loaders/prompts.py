"""Benchmarks of prompts, in their own files. Each is named by where it comes from, its files, columns and label rule.

``openai-moderation``
    github.com/openai/moderation-api-release (arXiv 2208.03274), MIT. ``samples-1680.jsonl.gz``: `prompt` and the flags
    `S H V HR SH S3 H2 V2`; a flag that is missing is not known. Unsafe: any flag is 1 (as in allenai/safety-eval).
``toxicchat``, ``toxicchat-human``
    huggingface.co/datasets/lmsys/toxic-chat (arXiv 2310.17389), CC BY-NC 4.0. ``toxic-chat_annotation_test.csv``
    of 0124 or 1123: `user_input`, `human_annotation`, `toxicity`, `jailbreaking`. Unsafe: `toxicity` is 1; a
    jailbreak that isn't marked toxic is safe. `-human` judges only the rows with `human_annotation`, as
    allenai/safety-eval does.
``xstest``
    github.com/paul-rottger/xstest (arXiv 2308.01263), CC BY 4.0. ``xstest_prompts.csv``: `id`, `prompt`, `type`,
    `label`, `focus`, `note`. Unsafe: `label`; in v2, which has none, a `type` with "contrast".
``simplesafetytests``
    huggingface.co/datasets/Bertievidgen/SimpleSafetyTests (arXiv 2311.08370), CC BY 4.0. ``sst_test_cases.csv``:
    `prompt`, `harm_area`. All unsafe.
``oktest``
    github.com/InvokerStark/OverKill (arXiv 2401.17633). ``OKTest.csv``: the first column, whatever its name, as the
    authors' SelfCD.py reads it. All safe.
``or-bench``
    huggingface.co/datasets/bench-llm/or-bench (arXiv 2405.20947), CC BY 4.0. ``or-bench-80k.csv``,
    ``or-bench-hard-1k.csv`` (safe), ``or-bench-toxic.csv`` (unsafe): `prompt`, `category`. The name tells the label.
``notinject``
    github.com/leolee99/PIGuard, formerly InjecGuard (arXiv 2410.22770). ``NotInject_one.json``, ``_two``, ``_three``:
    a list of objects with `prompt`. All safe.
``deepset-injections``
    huggingface.co/datasets/deepset/prompt-injections, Apache-2.0. Parquet: `text`, `label`. Unsafe: `label` is 1.
``jailbreakbench``
    huggingface.co/datasets/JailbreakBench/JBB-Behaviors (arXiv 2404.01318), MIT. ``harmful-behaviors.csv``,
    ``benign-behaviors.csv``: `Goal`, `Category`. The name tells the label.
``strongreject``
    github.com/alexandrasouly/strongreject (arXiv 2402.10260), MIT. ``strongreject_dataset.csv``: `category`,
    `forbidden_prompt`. All unsafe.
``advbench``
    github.com/llm-attacks/llm-attacks (arXiv 2307.15043), MIT. ``harmful_behaviors.csv``: `goal`, `target`. All unsafe.
``harmbench-prompts``
    github.com/centerforaisafety/HarmBench (arXiv 2402.04249), MIT. ``harmbench_behaviors_text_*.csv``: `Behavior`,
    `FunctionalCategory`, `SemanticCategory`, `ContextString`, which follows a contextual behaviour. All unsafe.
``agentharm``
    huggingface.co/datasets/ai-safety-institute/AgentHarm (arXiv 2410.09024), MIT with a clause for safety research.
    ``harmful_behaviors_*.json``, ``benign_behaviors_*.json``: `behaviors`, a list of objects with `prompt`, `category`.
    The name tells the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardmw.evaluation.loaders import taxonomies
from guardmw.evaluation.loaders.native import Benchmark, Case, LeftOut, label_by_name
from guardmw.evaluation.loaders.records import Record, UnfitError, UnfitFileError, listed

__all__ = ["PROMPTS"]

OPENAI_FLAGS = {
    "S": "sexual", "H": "hate", "V": "violence", "HR": "harassment", "SH": "self-harm", "S3": "sexual/minors",
    "H2": "hate/threatening", "V2": "violence/graphic",
}  # fmt: skip


def _openai(record: Record) -> Iterator[Case]:
    known = [flag for flag in OPENAI_FLAGS if flag in record.fields and record.fields[flag] not in (None, "")]
    if not known:
        raise UnfitError(f"none of the flags {' '.join(OPENAI_FLAGS)} is there")
    names = tuple(OPENAI_FLAGS[flag] for flag in known if record.flag(flag))
    yield Case("prompt", record.text("prompt"), bool(names), categories=names)


def _toxicchat(record: Record) -> Iterator[Case]:
    meta = {"jailbreaking": record.flag("jailbreaking"), "human_annotation": record.flag("human_annotation")}
    yield Case("prompt", record.text("user_input"), record.flag("toxicity"), meta=meta)


def _toxicchat_human(record: Record) -> Iterator[Case | LeftOut]:
    if record.flag("human_annotation"):
        yield from _toxicchat(record)
    else:
        yield LeftOut("not annotated by people")


def _xstest(record: Record) -> Iterator[Case]:
    kind = record.text("type")
    labelled = "label" in record.fields
    unsafe = record.choice("label", {"safe": False, "unsafe": True}) if labelled else "contrast" in kind
    yield Case("prompt", record.text("prompt"), unsafe, meta={"type": kind})


def _simplesafetytests(record: Record) -> Iterator[Case]:
    yield Case("prompt", record.text("prompt"), True, categories=(record.text("harm_area"),))


def _oktest(record: Record) -> Iterator[Case]:
    if ".csv" not in record.file.name.lower() or not record.fields:
        raise UnfitFileError("a CSV file is needed, whose first column holds the prompts")
    yield Case("prompt", record.text(next(iter(record.fields))), False)


def _or_bench(record: Record) -> Iterator[Case]:
    unsafe = label_by_name(record, ("toxic",), ("80k", "hard"))
    yield Case("prompt", record.text("prompt"), unsafe, categories=(record.text("category"),))


def _notinject(record: Record) -> Iterator[Case]:
    yield Case("prompt", record.text("prompt"), False)


def _deepset(record: Record) -> Iterator[Case]:
    yield Case("prompt", record.text("text"), record.flag("label"))


def _jailbreakbench(record: Record) -> Iterator[Case]:
    unsafe = label_by_name(record, ("harmful",), ("benign",))
    yield Case("prompt", record.text("Goal"), unsafe, categories=(record.text("Category"),))


def _strongreject(record: Record) -> Iterator[Case]:
    yield Case("prompt", record.text("forbidden_prompt"), True, categories=(record.text("category"),))


def _advbench(record: Record) -> Iterator[Case]:
    yield Case("prompt", record.text("goal"), True)


def _harmbench(record: Record) -> Iterator[Case]:
    context = record.optional("ContextString") if record.text("FunctionalCategory") == "contextual" else ""
    text = f"{record.text('Behavior')}\n\n{context}".rstrip()
    yield Case("prompt", text, True, categories=(record.text("SemanticCategory"),))


def _agentharm(record: Record) -> Iterator[Case]:
    unsafe = label_by_name(record, ("harmful",), ("benign", "harmless"))
    yield Case("prompt", record.text("prompt"), unsafe, categories=(record.text("category"),))


def _behaviors(document: Any) -> list[Any]:
    inside = document.get("behaviors") if isinstance(document, dict) else None
    return listed(document if inside is None else inside)


TOXICCHAT_COLUMNS = ("user_input", "human_annotation", "toxicity", "jailbreaking")

PROMPTS = (
    Benchmark("openai-moderation", taxonomies.OPENAI, "MIT", ("prompt",), _openai),
    Benchmark("toxicchat", taxonomies.TOXICCHAT, "CC BY-NC 4.0", TOXICCHAT_COLUMNS, _toxicchat),
    Benchmark("toxicchat-human", taxonomies.TOXICCHAT, "CC BY-NC 4.0", TOXICCHAT_COLUMNS, _toxicchat_human),
    Benchmark("xstest", taxonomies.PLAIN_HARM, "CC BY 4.0", ("prompt", "type"), _xstest),
    Benchmark(
        "simplesafetytests", taxonomies.SIMPLESAFETYTESTS, "CC BY 4.0", ("prompt", "harm_area"), _simplesafetytests
    ),
    Benchmark("oktest", taxonomies.PLAIN_HARM, "not stated", (), _oktest),
    Benchmark("or-bench", taxonomies.OR_BENCH, "CC BY 4.0", ("prompt", "category"), _or_bench),
    Benchmark("notinject", taxonomies.INJECTION, "not stated", ("prompt",), _notinject),
    Benchmark("deepset-injections", taxonomies.INJECTION, "Apache-2.0", ("text", "label"), _deepset),
    Benchmark("jailbreakbench", taxonomies.JAILBREAKBENCH, "MIT", ("Goal", "Category"), _jailbreakbench),
    Benchmark("strongreject", taxonomies.STRONGREJECT, "MIT", ("category", "forbidden_prompt"), _strongreject),
    Benchmark("advbench", taxonomies.ADVBENCH, "MIT", ("goal", "target"), _advbench),
    Benchmark(
        "harmbench-prompts",
        taxonomies.HARMBENCH,
        "MIT",
        ("Behavior", "FunctionalCategory", "SemanticCategory"),
        _harmbench,
    ),
    Benchmark(
        "agentharm", taxonomies.AGENTHARM, "MIT, safety research", ("prompt", "category"), _agentharm, _behaviors
    ),
)
