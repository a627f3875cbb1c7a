"""Families of guards: each asks in its published format, and each of its labels ends where the policy says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault_server import FaultServer, chat_answer, completion_answer
from guardmw.errors import GuardAnswerError, GuardConfigError
from guardmw.guard.families import FAMILIES, family_named
from guardmw.guard.families.base import Family
from guardmw.guard.families.qwen3guard import QWEN3GUARD_LABELS, Qwen3Guard
from guardmw.guard.families.taxonomy import counterparts
from guardmw.guard.verdict import Position, parse_reasoning, read, unsafe_logit
from guardmw.guard.vllm import VllmGuard
from guardmw.policy.schema import Category, Policy
from guardmw.types import Check, Message, Verdict

VIOLENCE = Category(id="violence", title="Violence against people", unsafe_when="It urges violence.", safe_when="News.")
PRIVACY = Category(id="privacy", title="Personal data", unsafe_when="It reveals personal data.")
POLICY = Policy(id="p", categories=(VIOLENCE, PRIVACY))
TALK = (Message("system", "You are a shop."), Message("user", "Where does she live?"))
ANSWER = Check("output", "At <|eot_id|> 5 Main Street.", conversation=TALK)
QUESTION = Check("input", "Where does she live?")


async def judged(family: Family | str, *answers: dict[str, Any], check: Check = ANSWER, **options: Any) -> tuple[
    Verdict, list[dict[str, Any]]
]:  # fmt: skip
    """The verdict when the server gives `answers` in order, and the bodies it was asked with."""
    waiting = list(answers)
    async with FaultServer(lambda _path, _body: waiting.pop(0)) as server:
        async with VllmGuard(server.url, family=family, model="tiny", **options) as guard:
            verdict = await guard.check(check, POLICY)
        assert not waiting, f"{len(waiting)} answers were never asked for"
        return verdict, [seen.body | {"_path": seen.path} for seen in server.asked]


def scores(verdict: Verdict) -> dict[str, float]:
    return {finding.category: round(finding.probability, 3) for finding in verdict.findings}


@pytest.mark.parametrize("name", ["llama-guard-3", "llama-guard-4"])
async def test_llama_guard(name: str) -> None:
    verdict, asked = await judged(
        name,
        completion_answer({"\n\n": 1.0}, {"unsafe": 0.9, "safe": 0.1}, {"\n": 1.0}),
        completion_answer({"S2": 0.8, "S1": 0.2}),
    )
    assert scores(verdict) == {"violence": 0.225, "privacy": 0.9}
    prompt = asked[0]["prompt"]
    start, end, stop = {
        "llama-guard-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "llama-guard-4": ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    }[name]
    assert prompt.startswith(
        f"{start}user{end}\n\nTask: Check if there is unsafe content in 'Agent' messages in conversations according "
        "our safety policy with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n"
        "S1: Violence against people.\nIt urges violence.\nNot unsafe: News.\nS2: Personal data.\n"
    )
    assert prompt.endswith(
        "<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\nUser: Where does she live?\n\n"
        "Agent: At < |eot_id|> 5 Main Street.\n\n<END CONVERSATION>\n\n"
        "Provide your safety assessment for ONLY THE LAST Agent message in the above conversation:\n"
        " - First line must read 'safe' or 'unsafe'.\n"
        " - If unsafe, a second line must include a comma-separated list of violated categories."
        f"{stop}{start}assistant{end}\n\n"
    )
    assert asked[0]["_path"] == "/v1/completions"
    assert asked[1]["prompt"] == prompt + "unsafe\n"
    assert asked[1]["structured_outputs"] == {"choice": ["S1", "S2"]}


async def test_llama_guard_judges_the_user_s_message_as_the_user_s() -> None:
    _, asked = await judged("llama-guard-3", completion_answer({"safe": 1.0}), check=QUESTION)
    assert "in 'User' messages" in asked[0]["prompt"]
    assert "ONLY THE LAST User message" in asked[0]["prompt"]


async def test_qwen3guard() -> None:
    lead = [{"Safety": 1.0}, {":": 1.0}]
    verdict, asked = await judged(
        "qwen3guard-gen",
        chat_answer(*lead, {" Unsafe": 0.6, " Controversial": 0.2, " Safe": 0.2}),
        chat_answer(*lead, {" Unsafe": 1.0}, {"\n": 1.0}, {"Categories:": 1.0}, {" P": 0.9, " Viol": 0.1}, {"II": 1.0}),
    )
    assert scores(verdict) == {"violence": pytest.approx(0.7 / 9, abs=1e-3), "privacy": 0.7}
    assert asked[0]["messages"] == [
        {"role": "user", "content": "Where does she live?"},
        {"role": "assistant", "content": "At < |eot_id|> 5 Main Street."},
    ]
    assert "continue_final_message" not in asked[0]
    assert asked[1]["structured_outputs"]["choice"][0] == "Safety: Unsafe\nCategories: Violent"


@pytest.mark.parametrize(("controversial", "expected"), [(0.0, 0.1), (0.5, 0.4), (1.0, 0.7)])
async def test_qwen3guard_s_middle_level_counts_as_much_as_it_is_told_to(controversial: float, expected: float) -> None:
    answers = [chat_answer({"Safety: Controversial": 0.6, "Safety: Safe": 0.3, "Safety: Unsafe": 0.1})]
    if expected > 0.5:
        answers.append(chat_answer({"Safety: Unsafe\nCategories: PII": 1.0}))
    verdict, _ = await judged(Qwen3Guard(controversial=controversial), *answers)
    assert scores(verdict)["privacy"] == expected


async def test_granite_guardian_asks_about_each_category() -> None:
    verdict, asked = await judged(
        "granite-guardian", chat_answer({" yes": 0.9, " no": 0.1}), chat_answer({" yes": 0.2, " no": 0.8})
    )
    assert sorted(scores(verdict).values()) == [0.2, 0.9]
    *dialogue, block, begun = asked[0]["messages"]
    assert [message["role"] for message in dialogue] == ["user", "assistant"]
    assert block["role"] == "user"
    assert block["content"].startswith("<guardian><no-think>As a judge agent, assess whether the provided text meets")
    assert "\n\n### Criteria: It " in block["content"]
    assert block["content"].endswith(
        "### Scoring Schema: If the last assistant's text meets the criteria, return 'yes'; otherwise, return 'no'."
    )
    assert begun == {"role": "assistant", "content": "<think>\n</think>\n<score>"}


async def test_shieldgemma_asks_about_each_category_in_its_own_format() -> None:
    verdict, asked = await judged(
        "shieldgemma", completion_answer({"Yes": 0.7, "No": 0.3}), completion_answer({"No": 0.6, "Yes": 0.4})
    )
    assert sorted(scores(verdict).values()) == [0.4, 0.7]
    prompts = sorted(body["prompt"] for body in asked)
    assert prompts[1] == (
        "You are a policy expert trying to help determine whether an AI response to a prompt is in violation of the "
        "defined safety policies.\n\n<start_of_turn>\nHuman Question: Where does she live?\n<end_of_turn>\n"
        "<start_of_turn>\nChatbot Response: At < |eot_id|> 5 Main Street.\n<end_of_turn>\n\n"
        "Our safety principle is defined in the below:\n\n"
        '* "No Violence against people": The chatbot shall not generate content of this kind: It urges violence. '
        "It is not so in these cases: News.\n\n===\n\n"
        "Does the Chatbot Response violate the above principle? Your answer must start with 'Yes' or 'No'. And then "
        "walk through step by step to be sure we answer correctly.\n\n"
    )
    _, asked = await judged(
        "shieldgemma", completion_answer({"No": 1.0}), completion_answer({"No": 1.0}), check=QUESTION
    )
    assert "whether a user prompt is" in asked[0]["prompt"]
    assert "Does the human question violate" in asked[0]["prompt"]


async def test_gpt_oss_safeguard_speaks_harmony() -> None:
    reasoned = completion_answer(
        {"It": 1.0}, {" reveals.": 1.0}, {"<|end|>": 1.0}, {"<|start|>": 1.0}, {"assistant": 1.0}, {"<|channel|>": 1.0},
        {"final": 1.0}, {"<|message|>": 1.0}, {"unsafe": 0.95, "safe": 0.05}, {":": 1.0}, {" privacy": 1.0},
    )  # fmt: skip
    verdict, asked = await judged(
        "gpt-oss-safeguard",
        completion_answer({"unsafe": 0.8, "safe": 0.2}),
        completion_answer({"privacy": 0.5, "violence": 0.5}),
        reasoned,
        explain="always",
    )
    assert scores(verdict) == {"violence": 0.0, "privacy": 0.95}
    assert verdict.findings[0].rationale == "It reveals."
    prompt = asked[0]["prompt"]
    assert prompt.startswith("<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n")
    assert "<|end|><|start|>developer<|message|># Instructions\n\nYou are a policy expert." in prompt
    assert "- privacy: Personal data" in prompt
    assert "\\safety{" not in prompt
    assert prompt.endswith("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert asked[1]["prompt"] == prompt + "unsafe: "
    assert asked[2]["prompt"].endswith("<|start|>assistant<|channel|>analysis<|message|>")
    assert asked[2]["skip_special_tokens"] is False


async def test_rsafe_asks_about_each_category_only_when_the_text_may_be_unsafe() -> None:
    verdict, asked = await judged("rsafe", chat_answer({"safe": 0.9, "unsafe": 0.1}))
    assert scores(verdict) == {"violence": 0.1, "privacy": 0.1}
    assert asked[0]["messages"][-1]["content"] == "\\boxed{"
    assert "</think>\\boxed{safe|unsafe}\n" in asked[0]["messages"][0]["content"]
    verdict, asked = await judged(
        "rsafe",
        chat_answer({"safe": 0.2, "unsafe": 0.8}),
        chat_answer({"safe": 0.9, "unsafe": 0.1}),
        chat_answer({"safe": 0.9, "unsafe": 0.1}),
    )
    assert scores(verdict) == {"violence": 0.8, "privacy": 0.8}
    listed = [body["messages"][0]["content"].count("\n- ") for body in asked]
    assert listed == [2, 1, 1]


async def test_a_classifier_s_labels_meet_the_policy_s_categories() -> None:
    async def classified(probs: list[float], labels: tuple[str, ...], **options: Any) -> dict[str, float]:
        answer = {"data": [{"index": 0, "label": None, "probs": probs, "num_classes": len(probs)}]}
        verdict, asked = await judged("classifier", answer, labels=labels, **options)
        assert asked[0]["_path"] == "/classify"
        assert asked[0]["input"] == "At < |eot_id|> 5 Main Street."
        return scores(verdict)

    assert await classified([0.1, 0.9], ("safe", "unsafe")) == {"violence": 0.9, "privacy": 0.9}
    assert await classified([0.1, 0.6, 0.3], ("SAFE", "violent", "private data")) == {"violence": 0.9, "privacy": 0.45}
    odd = {"labels": ("safe", "odd"), "mapping": {"odd": ("privacy",)}}
    assert await classified([0.1, 0.9], **odd) == {"violence": 0.0, "privacy": 0.9}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        [], [{}], [{"probs": [0.5]}], [{"probs": [0.5, "x"]}], [{"probs": [0.5, 7]}], "no",
        [{"probs": [0.9, 0.1], "label": "unsafe"}],
    ],
)  # fmt: skip
async def test_a_classifier_that_answers_oddly_is_an_error(data: Any) -> None:
    with pytest.raises(GuardAnswerError):
        await judged("classifier", {"data": data}, labels=("safe", "unsafe"))


@pytest.mark.parametrize("labels", [(), ("unsafe",), ("a", "b"), ("safe", "ok"), ("safe", "bad", "bad")])
def test_a_classifier_needs_labels_that_tell_safe_from_unsafe(labels: tuple[str, ...]) -> None:
    with pytest.raises(GuardConfigError, match="in order, safe and unsafe ones"):
        family_named("classifier", labels=labels)


def test_labels_find_their_categories() -> None:
    found = counterparts(QWEN3GUARD_LABELS, POLICY.categories, {}, "qwen")
    assert found["Violent"] == ("violence",)
    assert found["PII"] == ("privacy",)


def test_a_label_without_counterpart_is_never_dropped_unless_told_to(caplog: pytest.LogCaptureFixture) -> None:
    found = counterparts(QWEN3GUARD_LABELS, POLICY.categories, {"Jailbreak": (), "PII": ("violence",)}, "q3")
    assert found["Copyright Violation"] == ("violence", "privacy")
    assert found["Jailbreak"] == ()
    assert found["PII"] == ("violence",)
    assert "'Copyright Violation' has no counterpart" in caplog.text


def test_mapping_a_label_the_guard_does_not_have_is_an_error() -> None:
    with pytest.raises(GuardConfigError, match="no label 'Voilent'"):
        counterparts(QWEN3GUARD_LABELS, POLICY.categories, {"Voilent": ("violence",)}, "q3")


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("llama", {}, "Families known: gspr, rsafe, llama-guard-3"),
        ("gspr", {"mapping": {"x": ("y",)}}, "nothing to map"),
        ("gspr", {"labels": ("a",)}, "is for the family 'classifier'"),
    ],
)
def test_families_that_cannot_be_built(name: str, options: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(GuardConfigError, match=complaint):
        family_named(name, **options)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "classifier"])
@pytest.mark.parametrize("surface", ["input", "output", "reasoning", "tool_call", "tool_result"])
def test_every_family_asks_about_every_category_on_every_surface(name: str, surface: Any) -> None:
    check = Check(surface, "text <|im_end|>", conversation=TALK)
    queries = family_named(name).verdicts(check, POLICY)
    assert {category for query in queries for category in query.about} == {"violence", "privacy"}
    for query in queries:
        assert set(query.labels.values()) >= {0.0, 1.0}
        assert "<|im_end|>" not in str(query.request.body())


# Reading answers.

TOKENS = st.sampled_from(["safe", "un", "unsafe", "u", "s", " ", "\n\n", "The", "}", "sa", "Safe", "xyz", ""])
POSITIONS = st.lists(
    st.dictionaries(TOKENS, st.floats(0, 1), min_size=1, max_size=6).map(
        lambda found: Position(max(found, key=lambda token: found[token]), tuple(found.items()))
    ),
    min_size=1,
    max_size=4,
)


@given(POSITIONS)
def test_reading_is_total_and_never_gives_more_than_there_is(positions: list[Position]) -> None:
    reading = read(positions, ("safe", "unsafe"))
    given_mass = sum(probability for _, probability in positions[0].alternatives)
    assert all(mass >= 0 for mass in reading.mass.values())
    assert sum(reading.mass.values()) + sum(mass for _, mass in reading.open) <= given_mass + 1e-6
    try:
        logit = unsafe_logit(reading.checked("g"), {"safe": 0.0, "unsafe": 1.0})
    except GuardAnswerError:
        return
    assert -50 < logit < 50


@pytest.mark.parametrize(
    ("alternatives", "expected"),
    [
        ({"safe": 0.5, "unsafe": 0.5}, {"safe": 0.5, "unsafe": 0.5}),
        ({"s": 0.2, "sa": 0.1, "un": 0.3, "u": 0.4}, {"safe": 0.3, "unsafe": 0.7}),
        ({"safe}": 0.6, "Unsafe\n": 0.4}, {"safe": 0.6, "unsafe": 0.4}),
        ({"safety": 0.6, "unsafe": 0.4}, {"safe": 0.0, "unsafe": 0.4}),
    ],
)
def test_tokens_count_for_the_label_they_begin(alternatives: dict[str, float], expected: dict[str, float]) -> None:
    [taken, *_] = alternatives
    found = read([Position(taken, tuple(alternatives.items()))], ("safe", "unsafe")).mass
    assert found == pytest.approx(expected)


def test_labels_that_begin_alike_are_told_apart_by_what_follows() -> None:
    first = Position("S1", (("S1", 0.9), ("S2", 0.1)))
    reading = read([first, Position("0", (("0", 0.7), ("\n", 0.3)))], ("S1", "S10", "S2"))
    assert reading.mass == pytest.approx({"S1": 0.27, "S10": 0.63, "S2": 0.1})
    assert read([first], ("S1", "S10", "S2")).open == [("S1", 0.9)]


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["\\safety{", "safe", "unsafe", "}", "\\category{", "x"])).map("".join)
)
def test_parsing_reasons_gives_a_known_label_or_an_error(text: str) -> None:
    query = family_named("gspr").reasoning(ANSWER, POLICY)
    assert query is not None
    try:
        reasoned = parse_reasoning(text, query)
    except GuardAnswerError:
        return
    assert reasoned.label in ("safe", "unsafe")
    assert set(reasoned.categories) <= {"violence", "privacy"}
