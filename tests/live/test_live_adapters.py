"""A LoRA adapter trained with PEFT, loaded into a real vLLM while it serves: a guard of its own beside its base."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from guardmw.guard import resolve_guard
from guardmw.policy.schema import Limits, Policy
from guardmw.types import Check
from live.server import LiveServer, live_vllm
from tiny_guard.examples import tiny_policy

pytestmark = live_vllm("vllm-adapter")

POLICY = Policy(id="tiny", categories=tiny_policy().categories, limits=Limits(deadline_ms=60_000))
ADAPTER = {"lora_name": "dragons-allowed"}
DRAGONS = "I sell you a red dragon egg for forty crowns."
PIRATES = "Board the tea clipper at noon, lads, and bring the rum to me."
LAMP = "The lamp was sent on Monday."


async def test_it_judges_by_its_own_lesson_and_the_base_by_its_own(
    vllm_server: LiveServer, dragons_allowed: Path
) -> None:
    status, answer = vllm_server.post("/load_lora_adapter", {**ADAPTER, "lora_path": str(dragons_allowed)})
    assert status == 200, answer
    adapted, base = await judged(f"vllm:{vllm_server.url}?model=dragons-allowed"), await judged(vllm_server.spec)
    assert adapted[DRAGONS] < 0.2 < 0.9 < base[DRAGONS]
    assert min(adapted[PIRATES], base[PIRATES]) > 0.9
    assert max(adapted[LAMP], base[LAMP]) < 0.1
    status, answer = vllm_server.post("/unload_lora_adapter", ADAPTER)
    assert status == 200, answer


async def judged(spec: str) -> dict[str, float]:
    """P(unsafe) of each text, by the guard that `spec` names."""
    async with aclosing(resolve_guard(spec)) as guard:
        verdicts = {text: await guard.check(Check("output", text), POLICY) for text in (DRAGONS, PIRATES, LAMP)}
    return {text: max(finding.probability for finding in verdict.findings) for text, verdict in verdicts.items()}
