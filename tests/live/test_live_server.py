"""What guardmw relies on in vLLM, asked of a real one: prefills, probabilities of choices, prefix cache, adapters."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from guardmw.guard.prompt import CATEGORY_PREFILL, VERDICT_PREFILL, guard_prompt
from guardmw.policy.schema import Policy
from guardmw.types import Check, Message
from live.server import LiveServer, live_vllm
from tiny_guard.examples import Text, Writer, tiny_policy

pytestmark = live_vllm()

POLICY: Policy = tiny_policy()
TEXTS = 40
FORMAT = re.compile(r"<think>.+</think>\\safety\{(safe|unsafe)\}\\category\{([a-z_ ]+)\}")


def test_the_model_was_trained_well(vllm_server: LiveServer) -> None:
    metrics = json.loads((vllm_server.folder / "metrics.json").read_text())
    assert metrics["label"] >= 0.95, metrics
    assert metrics["category"] >= 0.95, metrics
    assert metrics["reasoning"] >= 0.85, metrics  # right to the last token, the category it only resembles too


def test_it_answers_under_its_name(vllm_server: LiveServer) -> None:
    assert vllm_server.spec == f"vllm:{vllm_server.url}?model={vllm_server.model}"
    answer = vllm_server.chat(guard_prompt(Check("output", "Hello."), POLICY).messages(), max_tokens=4)
    assert answer["model"] == vllm_server.model == vllm_server.folder.name


def test_a_prefilled_turn_is_continued(vllm_server: LiveServer) -> None:
    messages = guard_prompt(Check("output", "The lamp was sent on Monday."), POLICY).messages(VERDICT_PREFILL)
    answer = vllm_server.chat(messages, max_tokens=16)
    assert answer["choices"][0]["message"]["content"] == "safe}\\category{not applicable}"


def test_a_choice_comes_with_its_probabilities(vllm_server: LiveServer) -> None:
    probabilities = first_token(vllm_server, "I sell you a red dragon egg for forty crowns.", ["safe", "unsafe"])
    assert sum(probabilities.values()) == pytest.approx(1, abs=0.01)
    assert probabilities["unsafe"] > 0.9
    assert {"un", "u"} & set(probabilities), "labels that begin with several tokens are what clients must handle"


def test_safe_and_unsafe_texts_lie_apart(vllm_server: LiveServer) -> None:
    writer = Writer("test", random.Random(1))
    scores = [(text, p_unsafe(vllm_server, text.content)) for text in (writer.text() for _ in range(TEXTS))]
    wrong = [(text, score) for text, score in scores if (score > 0.5) != (text.category is not None)]
    assert len(wrong) <= TEXTS // 20, wrong
    safe, unsafe = ([score for text, score in scores if bool(text.category) == wanted] for wanted in (False, True))
    assert sum(safe) / len(safe) < 0.1
    assert sum(unsafe) / len(unsafe) > 0.9


def test_the_category_is_one_of_the_policy(vllm_server: LiveServer) -> None:
    ids = [category.id for category in POLICY.categories]
    writer = Writer("test", random.Random(2))
    texts = [text for text in (writer.text() for _ in range(TEXTS)) if text.category]
    found = [choice(vllm_server, text, ids) for text in texts]
    assert sum(text.category == name for text, name in zip(texts, found, strict=True)) >= 0.9 * len(texts)


def test_reasons_come_before_the_verdict_in_the_format_asked_for(vllm_server: LiveServer) -> None:
    check = Check("output", "Board the tea clipper at noon, lads, and bring the rum to me.")
    messages = guard_prompt(check, POLICY, answer="reasoning").messages()
    content = vllm_server.chat(messages, max_tokens=120)["choices"][0]["message"]["content"]
    match = FORMAT.fullmatch(content)
    assert match is not None, content
    assert match.groups() == ("unsafe", "pirate_raid")


def test_a_growing_text_is_computed_once(vllm_server: LiveServer) -> None:
    writer = Writer("train", random.Random(3))
    sentences = [writer.text().content for _ in range(24)]
    conversation = (Message("user", "Tell me about the day."),)
    computed, before = [], 0
    for end in range(2, len(sentences) + 1, 2):
        check = Check("output", " ".join(sentences[:end]), conversation=conversation)
        usage = vllm_server.chat(guard_prompt(check, POLICY).messages(VERDICT_PREFILL), max_tokens=1)["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached >= before
        before = cached
        computed.append(usage["prompt_tokens"] - cached)
    assert before > 0.7 * usage["prompt_tokens"]
    assert max(computed[1:]) < 0.5 * usage["prompt_tokens"]


def test_another_tenant_s_cache_is_not_used(vllm_server: LiveServer) -> None:
    messages = guard_prompt(Check("output", "The tour begins at noon."), POLICY, nonce="salted").messages(
        VERDICT_PREFILL
    )
    cached = [
        vllm_server.chat(messages, max_tokens=1, cache_salt=tenant)["usage"]["prompt_tokens_details"]["cached_tokens"]
        for tenant in ("a", "a", "b")
    ]
    assert cached[0] == cached[2] == 0
    assert cached[1] > 0


def test_a_priority_is_accepted(vllm_server: LiveServer) -> None:
    messages = guard_prompt(Check("output", "Hello."), POLICY).messages(VERDICT_PREFILL)
    assert vllm_server.chat(messages, max_tokens=1, priority=-5)["choices"]


def test_an_adapter_that_is_not_there_is_refused(vllm_server: LiveServer) -> None:
    status, answer = vllm_server.post("/load_lora_adapter", {"lora_name": "none", "lora_path": "/nowhere"})
    assert status == 404
    assert "No adapter found" in json.dumps(answer)


def p_unsafe(server: LiveServer, text: str, policy: Policy = POLICY) -> float:
    """Probability of the tokens that begin "unsafe", over that of all that begin a label."""
    probabilities = first_token(server, text, ["safe", "unsafe"], policy)
    unsafe = sum(share for token, share in probabilities.items() if "unsafe".startswith(token))
    return unsafe / sum(probabilities.values())


def first_token(server: LiveServer, text: str, labels: Sequence[str], policy: Policy = POLICY) -> dict[str, float]:
    """Probabilities of the first tokens that may begin one of `labels`."""
    messages = guard_prompt(Check("output", text), policy).messages(VERDICT_PREFILL)
    wanted: dict[str, Any] = {"choice": list(labels)}
    answer = server.chat(messages, max_tokens=1, logprobs=True, top_logprobs=20, structured_outputs=wanted)
    (token,) = answer["choices"][0]["logprobs"]["content"]
    shares = {each["token"]: math.exp(each["logprob"]) for each in token["top_logprobs"]}
    return {name: share for name, share in shares.items() if any(label.startswith(name) for label in labels)}


def choice(server: LiveServer, text: Text, ids: list[str]) -> str:
    messages = guard_prompt(Check("output", text.content), POLICY).messages(CATEGORY_PREFILL)
    answer = server.chat(messages, max_tokens=16, structured_outputs={"choice": ids})
    name: str = answer["choices"][0]["message"]["content"]
    return name
