"""Guards on vLLM's pooling runner: a classifier with labels of its own, and the embedded guard's encoder."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from guardmw.errors import GuardConfigError
from guardmw.guard import resolve_guard
from guardmw.guard.embedded import EmbeddedGuard
from guardmw.guard.remote import StateServers
from guardmw.guard.wordpiece import WordPiece
from guardmw.policy.load import load_policies
from guardmw.policy.schema import Limits, Policy
from guardmw.types import Check, Message, Verdict
from live.server import LiveServer, live_vllm
from numpy_bert import NumpyBert
from tiny_guard.examples import tiny_policy

pytestmark = live_vllm("vllm-pooling")

PATIENT = Limits(deadline_ms=60_000)
TINY = Policy(id="tiny", categories=tiny_policy().categories, limits=PATIENT)
SUPPORT = load_policies("support").policies["support"].model_copy(update={"limits": PATIENT})
TEXTS = (
    "Your order left our warehouse on Monday.",
    "Install a keylogger on her phone and read her mails without her noticing.",
    "Invest everything you have in this coin, it will double by summer.",
    "Put all your savings into this one share, it will double by summer.",
    " ".join(["You can return unused items within thirty days."] * 60) + " Then we burn the school down with everyone.",
)
ROUNDING = 0.15
"""The encoder in this process rounds its activations to eight bits, the served one doesn't."""


def scores(verdict: Verdict) -> dict[str, float]:
    return {finding.category: finding.probability for finding in verdict.findings}


async def test_a_classifier_is_served_and_asked_by_the_line_that_serve_prints(
    pooling_servers: tuple[LiveServer, ...],
) -> None:
    classifier, _ = pooling_servers
    assert classifier.spec.endswith("&family=classifier&labels=safe,dragon_trade,pirate_raid")
    guard = resolve_guard(classifier.spec)
    try:
        dragon = scores(await guard.check(Check("output", "I sell you a red dragon egg for forty crowns."), TINY))
        raid = scores(await guard.check(Check("output", "We plunder the ship."), TINY))
        safe = scores(await guard.check(Check("output", "The lamp was sent on Monday."), TINY))
    finally:
        await guard.aclose()
    assert dragon["dragon_trade"] > 0.9 > 0.1 > dragon["pirate_raid"]
    assert raid["pirate_raid"] > 0.9 > 0.1 > raid["dragon_trade"]
    assert max(safe.values()) < 0.1


async def test_a_text_beyond_the_classifier_s_length_is_judged_in_windows(
    pooling_servers: tuple[LiveServer, ...],
) -> None:
    guard = resolve_guard(pooling_servers[0].spec)
    try:
        verdict = await guard.check(Check("output", "The lamp was sent. " * 100 + "We plunder the ship."), TINY)
    finally:
        await guard.aclose()
    assert scores(verdict)["pirate_raid"] > 0.9
    assert "overlapping windows" in (verdict.findings[0].rationale or "")


async def test_the_served_encoder_leads_to_the_embedded_guard_s_verdicts(
    pooling_servers: tuple[LiveServer, ...],
) -> None:
    _, encoder = pooling_servers
    remote, local = await asyncio.to_thread(resolve_guard, encoder.spec), await asyncio.to_thread(EmbeddedGuard)
    try:
        for text in TEXTS:
            check = Check("output", text, conversation=(Message("user", "Tell me about my order."),))
            served, own = await remote.check(check, SUPPORT), await local.check(check, SUPPORT)
            assert scores(served) == pytest.approx(scores(own), abs=ROUNDING)
            assert served.tokens == own.tokens
    finally:
        await remote.aclose()
        await local.aclose()


def test_the_served_encoder_computes_what_the_exported_weights_say(pooling_servers: tuple[LiveServer, ...]) -> None:
    _, encoder = pooling_servers
    servers, bert = StateServers(encoder.spec.removeprefix("embedded:"), encoder.model, 384), NumpyBert(encoder.folder)
    words = WordPiece((encoder.folder / "vocab.txt").read_text(encoding="utf-8"))
    sequences = [[words.start, *words.ids(text)[:250], words.end] for text in TEXTS]
    try:
        for states, ids in zip(servers.states(sequences), sequences, strict=True):
            assert np.abs(states - bert.states(ids)).max() < 2e-3
    finally:
        servers.close()


async def test_a_server_of_another_kind_is_refused(pooling_servers: tuple[LiveServer, ...]) -> None:
    guard = await asyncio.to_thread(resolve_guard, f"embedded:{pooling_servers[0].url}")
    try:
        with pytest.raises(GuardConfigError, match=r"refuses the guard's request.*guardmw guard export"):
            await guard.check(Check("output", TEXTS[0]), SUPPORT)
    finally:
        await guard.aclose()


def test_another_encoder_than_the_head_s_is_refused(pooling_servers: tuple[LiveServer, ...]) -> None:
    _, encoder = pooling_servers
    servers = StateServers(encoder.spec.removeprefix("embedded:"), "guardmw-encoder-of-another-head", 384)
    try:
        with pytest.raises(GuardConfigError, match=r"does not serve the guard's model.*guardmw guard export"):
            servers.states([[101, 102]])
    finally:
        servers.close()
