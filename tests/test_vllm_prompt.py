"""What a guard LLM reads: it only ever grows at its end, and nothing in it can pass for something else."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardmw.guard.prompt import (
    CATEGORY_PREFILL,
    VERDICT_PREFILL,
    answer_text,
    guard_prompt,
    neutral,
    nonce_for,
)
from guardmw.policy.detectors import detectors_for
from guardmw.policy.schema import Category, Policy, Precedent, Streaming
from guardmw.stream.window import StreamWindow
from guardmw.types import Check, Message, ToolCall

TEMPLATE_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>", "<|eot|>", "<|header_start|>",
    "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>",
    "<</SYS>>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|start_of_role|>", "<\uff5cUser\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<think>", "</think>", "<tool_call>", "[TOOL_CALLS]", "<unused12>", "<|endoftext|>",
    "\\safety{", "\\category{", "\\Safety{", "\\boxed{", "<END CONVERSATION>", "<END UNSAFE CONTENT CATEGORIES>",
    "<guardian>", "<score>", "<0x0A>",
)  # fmt: skip
HOSTILE = st.lists(
    st.sampled_from([*TEMPLATE_TOKENS, "<<<", ">>>", "<", ">", "|", "[", "]", "\\", "{", "end", "INST", "\n", " ", "é"])
    | st.text(max_size=4),
    max_size=12,
).map("".join)
PROSE = " ".join(
    ["Our shop ships within three days. Returns are free, and the refund (less shipping) comes in a week."] * 12
)
POLICY = Policy(
    id="p",
    categories=(
        Category(
            id="advice",
            title="Financial advice",
            unsafe_when="The text\n recommends an investment.",
            safe_when="It declines.",
            precedents=(Precedent(text="Buy <|im_end|> ACME", label="unsafe", why="concrete"),),
        ),
        Category(id="spying", title="Spying", unsafe_when="The text helps to spy.", surfaces=("input",)),
    ),
)


def check(content: str, **more: Any) -> Check:
    return Check("output", content, stream_id="stream", **more)


def whole(prompt: Any) -> str:
    return str(prompt.system + prompt.shown)


@given(st.text(max_size=80) | HOSTILE, st.integers(0, 80))
def test_a_longer_output_extends_the_prompt(content: str, cut: int) -> None:
    early, late = guard_prompt(check(content[:cut]), POLICY), guard_prompt(check(content), POLICY)
    assert whole(late).startswith(whole(early))
    assert early.question == late.question


@given(HOSTILE)
def test_nothing_in_a_text_passes_for_a_token_a_label_or_a_marker(content: str) -> None:
    shown = neutral(content)
    assert not any(token in shown for token in TEMPLATE_TOKENS)
    assert "<<" not in shown
    shown.encode()


@pytest.mark.parametrize("token", TEMPLATE_TOKENS)
def test_each_template_token_is_parted_and_stays_readable(token: str) -> None:
    shown = neutral(f"before{token}after")
    assert token not in shown
    assert shown.replace(" ", "") == f"before{token}after".replace(" ", "")


@given(HOSTILE)
def test_a_fence_holds_whatever_stands_in_it(content: str) -> None:
    conversation = (Message("user", content), Message("assistant", content))
    prompt = guard_prompt(check(content, conversation=conversation), POLICY, nonce="kqzvtw")
    markers = re.findall(r"^<<<.*>>>$", prompt.shown + prompt.question, re.MULTILINE)
    assert markers == [
        "<<<kqzvtw user>>>", "<<<kqzvtw assistant>>>", "<<<kqzvtw review output>>>", "<<<kqzvtw end>>>"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["if a < b and c > d: x[0] = {}", "no tags at all", "[1] see p. 3", "C:\\safety and 1 < 2", "a -> b"]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert neutral(text) == text


def test_what_cannot_be_sent_is_replaced() -> None:
    assert neutral("a\ud800b\x00c") == "a\ufffdb\ufffdc"


def test_the_system_message_is_the_same_for_all_streams_and_holds_the_surface_s_categories() -> None:
    one = guard_prompt(Check("output", "x", stream_id="a"), POLICY)
    other = guard_prompt(Check("output", "y", stream_id="b", conversation=(Message("user", "z"),)), POLICY)
    assert one.system == other.system
    assert "- advice: Financial advice\n  unsafe when: The text recommends an investment.\n" in one.system
    assert 'unsafe example: "Buy < |im_end|> ACME" (concrete)' in one.system
    assert "spying" not in one.system
    assert "spying" in guard_prompt(Check("input", "x"), POLICY).system


def test_the_nonce_is_one_per_conversation_and_cannot_be_foreseen() -> None:
    talk = (Message("user", "hello"),)
    longer = (*talk, Message("assistant", "hi"))
    assert nonce_for(check("a", conversation=talk)) == nonce_for(check("b", conversation=longer))
    assert nonce_for(check("a")) == nonce_for(check("ab"))
    assert nonce_for(Check("output", "a")) != nonce_for(Check("output", "a"))
    assert re.fullmatch("[bcdfghjklmnpqrstvwxz]{6}", nonce_for(check("a")))


def test_earlier_calls_are_shown_and_the_one_under_review_is_not() -> None:
    calls = (ToolCall("find", '{"a": 1}'), ToolCall("send", '{"b": 2}'))
    shown = guard_prompt(Check("tool_call", "send(b=2)", calls=calls), POLICY).shown
    assert 'find {"a": 1}' in shown
    assert 'send {"b": 2}' not in shown


def test_messages_begin_the_guard_s_turn_only_when_asked_to() -> None:
    prompt = guard_prompt(check("x"), POLICY)
    assert [message["role"] for message in prompt.messages()] == ["system", "user"]
    assert prompt.messages(VERDICT_PREFILL)[-1] == {"role": "assistant", "content": "\\safety{"}


def test_an_answer_begins_like_the_prefills() -> None:
    assert answer_text("advice") == "\\safety{unsafe}\\category{advice}"
    assert answer_text(None) == "\\safety{safe}\\category{not applicable}"
    assert answer_text("advice", "why") == "<think>why</think>\\safety{unsafe}\\category{advice}"
    assert answer_text("advice").startswith(CATEGORY_PREFILL)
    assert answer_text(None).startswith(VERDICT_PREFILL)


@cache
def tokenizer() -> Any:
    """A byte-level BPE like those of guard models, trained on what they read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=list(TEMPLATE_TOKENS[:3]), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([PROSE, guard_prompt(check(PROSE), POLICY).system], trainer)
    return made


def chunk_ends(text: str) -> list[int]:
    """Where a stream's checks end."""
    window = StreamWindow(Streaming(first_chunk=4, chunk=16), detectors_for(POLICY, "output"))
    window.push(text, 0.0)
    ends = []
    for end in range(16, len(text), 24):
        part = StreamWindow(Streaming(first_chunk=4, chunk=16), detectors_for(POLICY, "output"))
        part.push(text[:end], 0.0)
        chunk = part.next_chunk()
        if chunk is not None:
            ends.append(chunk.end)
    return ends


def last_word_tokens(prompt: Any) -> int:
    """Tokens of the last word of what is shown: the white space at its end, else what stands after the last of it."""
    last = re.search(r"\s+$|\s?[^\s]*$", prompt.shown)
    assert last is not None
    return len(tokenizer().encode(last[0]).ids)


@given(st.sampled_from([PROSE, PROSE.replace(". ", ".\n\n"), PROSE.upper(), PROSE.replace("a", "ä")]) | HOSTILE)
def test_token_ids_extend_the_last_check_s_but_for_its_last_word(text: str) -> None:
    """The bound: what a check made the server compute is found again but for the tokens of its last word; where the
    text was cut at a word's end, as a stream is, that is no token at all, or the white space's."""
    before: Any = None
    for end in [*chunk_ends(text), len(text)]:
        prompt = guard_prompt(check(text[:end]), POLICY)
        ids = tokenizer().encode(whole(prompt)).ids
        if before is not None:
            kept = len(before[0]) - before[1]
            assert ids[:kept] == before[0][:kept]
        before = ids, last_word_tokens(prompt)


def test_prose_cut_at_word_ends_loses_no_token() -> None:
    lost = 0
    for early, late in zip(ends := chunk_ends(PROSE), ends[1:], strict=False):
        one = tokenizer().encode(whole(guard_prompt(check(PROSE[:early]), POLICY))).ids
        other = tokenizer().encode(whole(guard_prompt(check(PROSE[:late]), POLICY))).ids
        lost = max(lost, sum(mine != theirs for mine, theirs in zip(one, other, strict=False)))
    assert lost == 0


def test_the_question_stays_short() -> None:
    """It is computed anew for every check: it decides how many tokens the guard computes for a token of output."""
    assert len(guard_prompt(check("x"), POLICY).question) < 64
