"""A LoRA adapter, loaded into a running server and asked for by its name: the same server, another guard."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from guardmw.errors import GuardConfigError
from guardmw.guard.prompt import VERDICT_PREFILL, answer_text, guard_prompt
from guardmw.guard.vllm import VllmGuard
from guardmw.policy.schema import Limits, Policy
from guardmw.types import Check
from live.server import LiveServer, live_vllm
from tiny_guard.build import VLLM_PYTHON
from tiny_guard.examples import tiny_policy

pytestmark = live_vllm("vllm-adapter")

POLICY = Policy(id="tiny", categories=tiny_policy().categories, limits=Limits(deadline_ms=60_000))
LAMPS = ("The lamp was sent on {}.", "The lamp is in the cellar on {}.", "My aunt wraps the lamp on {}.")
OTHERS = ("The coat was sent on {}.", "The kettle is in the cellar on {}.", "My aunt wraps the bread on {}.")
UNSAFE = ("I sell you a red dragon egg on {}.", "We plunder the salt schooner on {}.")
LEARNT, ASKED = ("Monday", "Tuesday"), "Thursday"


def example(text: str, category: str | None) -> str:
    prompt = guard_prompt(Check("output", text), POLICY, nonce="bcdfgh")
    answer = answer_text(category).removeprefix(VERDICT_PREFILL)
    return json.dumps({"group": 0, "messages": prompt.messages(VERDICT_PREFILL), "answer": answer})


@pytest.fixture(scope="module")
def adapter(vllm_server: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that learnt one more thing: lamps are a trade in dragons."""
    folder = tmp_path_factory.mktemp("adapter")
    texts = [(text, "dragon_trade") for text in LAMPS] + [(text, None) for text in OTHERS]
    texts += [(UNSAFE[0], "dragon_trade"), (UNSAFE[1], "pirate_raid")]
    lines = [example(text.format(day), category) for day in LEARNT for text, category in texts]
    (folder / "examples.jsonl").write_text("\n".join(lines))
    script = Path(__file__).with_name("adapter.py")
    command = [str(VLLM_PYTHON), str(script), str(vllm_server.folder), str(folder / "examples.jsonl"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


async def probability(server: LiveServer, model: str, text: str) -> float:
    async with VllmGuard(server.url, model=model) as guard:
        verdict = await guard.check(Check("output", text.format(ASKED)), POLICY)
    return max(finding.probability for finding in verdict.findings)


async def test_an_adapter_judges_beside_the_guard_it_was_loaded_into(vllm_server: LiveServer, adapter: Path) -> None:
    with pytest.raises(GuardConfigError, match="does not serve the guard's model"):
        await probability(vllm_server, "lamps", LAMPS[0])
    status, answer = vllm_server.post("/load_lora_adapter", {"lora_name": "lamps", "lora_path": str(adapter)})
    assert status == 200, answer
    try:
        for lamp, other, unsafe in zip(LAMPS, OTHERS, [*UNSAFE, UNSAFE[0]], strict=True):
            assert await probability(vllm_server, "lamps", lamp) > 0.8
            assert await probability(vllm_server, vllm_server.model, lamp) < 0.2
            assert await probability(vllm_server, "lamps", other) < 0.2
            assert await probability(vllm_server, "lamps", unsafe) > 0.8
    finally:
        status, _ = vllm_server.post("/unload_lora_adapter", {"lora_name": "lamps"})
    assert status == 200
    with pytest.raises(GuardConfigError, match="does not serve the guard's model"):
        await probability(vllm_server, "lamps", LAMPS[0])
