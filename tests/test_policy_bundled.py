"""The policies that come with guardmw, and their JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from guardmw.policy import Policy, bundled_dir, decide_call, load_policies
from guardmw.policy.jsonschema import KEY_DESCRIPTIONS, policy_json_schema
from guardmw.policy.lint import lint
from guardmw.policy.load import bundled_ids
from guardmw.types import SURFACES, ToolCall

IDS = ("base", "coding", "finance", "research", "support")
SCHEMA_LINE = "# yaml-language-server: $schema=policy.schema.json"


def bundled(policy_id: str) -> Policy:
    return load_policies(policy_id).policies[policy_id]


def action(policy_id: str, tool: str, arguments: str = "{}", *history: str) -> str:
    return decide_call(bundled(policy_id).tools, ToolCall(tool, arguments), [ToolCall(name) for name in history]).action


def test_the_bundled_policies_are_these_and_form_one_set() -> None:
    assert tuple(bundled_ids()) == IDS
    policies = load_policies(bundled_dir())
    assert set(policies.policies) == set(IDS)
    assert lint(policies) == []
    assert policies.for_agent("support-eu").id == "support"
    assert policies.for_agent("coder").id == "coding"


@pytest.mark.parametrize("policy_id", IDS)
def test_every_category_is_told_in_full(policy_id: str) -> None:
    policy = bundled(policy_id)
    written = (bundled_dir() / f"{policy_id}.yaml").read_text(encoding="utf-8")
    assert written.startswith(SCHEMA_LINE + "\n")
    for category in policy.categories:
        assert category.safe_when, category.id
        assert 2 <= len(category.precedents) <= 6, category.id
        assert {precedent.label for precedent in category.precedents} == {"safe", "unsafe"}, category.id
        assert all(precedent.why for precedent in category.precedents), category.id
        assert 0.5 <= category.block_above <= 0.8, category.id


@pytest.mark.parametrize("policy_id", IDS[1:])
def test_every_other_policy_holds_what_base_holds(policy_id: str) -> None:
    policy = bundled(policy_id)
    assert policy.extends == ("base",)
    assert {one.id for one in bundled("base").categories} < {one.id for one in policy.categories}
    assert policy.agents
    assert policy.detectors.secrets is not None


def test_base_judges_every_surface() -> None:
    assert all(bundled("base").categories_on(surface) for surface in SURFACES)


def test_support_redacts_cards_and_guards_refunds() -> None:
    pii = bundled("support").detectors.pii
    assert pii is not None
    assert (pii.action, "credit_card" in pii.entities, "output" in pii.surfaces) == ("redact", True, True)
    assert action("support", "issue_refund", '{"amount": 20}') == "deny"
    assert action("support", "issue_refund", '{"amount": 20}', "verify_identity") == "check"
    assert action("support", "issue_refund", '{"amount": 2000}', "verify_identity") == "ask"
    assert action("support", "http_post", "{}", "read_customer") == "deny"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pytest -q", "check"),
        ("git push origin main", "check"),
        ("rm notes.txt", "check"),
        ("rm -rf build", "ask"),
        ("echo done\nsudo reboot", "ask"),
        ("git push --force", "ask"),
        ("dd if=/dev/zero of=/dev/sda", "ask"),
    ],
)
def test_coding_sends_risky_commands_to_a_person(command: str, expected: str) -> None:
    assert action("coding", "bash", json.dumps({"command": command})) == expected
    assert action("coding", "run_shell", json.dumps({"command": command})) == expected


def test_coding_asks_where_it_cannot_see_the_command() -> None:
    assert action("coding", "bash", '{"cmd": "ls"}') == "ask"


def test_finance_moves_no_money_on_its_own() -> None:
    good = '{"amount": 20, "currency": "EUR"}'
    assert action("finance", "transfer_money", good) == "deny"
    assert action("finance", "transfer_money", good, "verify_identity") == "ask"
    assert action("finance", "transfer_money", good, "verify_identity", "transfer_money") == "deny"
    assert action("finance", "get_order") == "check"
    assert action("finance", "place_order") == "ask"


def test_research_fetches_https_only() -> None:
    assert action("research", "fetch_url", '{"url": "https://example.org/a"}') == "check"
    assert action("research", "fetch_url", '{"url": "file:///etc/passwd"}') == "deny"


def walk(node: Any, pointer: str = "") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        return [found for index, item in enumerate(node) for found in walk(item, f"{pointer}/{index}")]
    if not isinstance(node, dict):
        return []
    own = [(pointer, node)] if "properties" in node else []
    return own + [found for key, item in node.items() for found in walk(item, f"{pointer}/{key}")]


def test_the_schema_requires_only_what_nobody_inherits_and_forbids_the_rest() -> None:
    models = dict(walk(policy_json_schema()))
    required = {pointer.rpartition("/")[2] or "Policy": model.get("required", []) for pointer, model in models.items()}
    assert {name: keys for name, keys in required.items() if keys} == {
        "Policy": ["id"],
        "Category": ["id"],
        "PatternDetector": ["id"],
        "SequenceRule": ["name"],
        "Precedent": ["text", "label"],
        "ToolRule": ["tool"],
    }
    assert all(model["additionalProperties"] is False for model in models.values())


def test_the_schema_describes_every_key() -> None:
    assert set(KEY_DESCRIPTIONS) == set(Policy.model_fields)


def test_the_readme_lists_the_policies_and_its_example_loads(tmp_path: Any) -> None:
    readme = (bundled_dir() / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{policy_id}` |" in readme for policy_id in IDS)
    (example,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "shop.yaml").write_text(example, encoding="utf-8")
    shop = load_policies(tmp_path)
    assert lint(shop) == []
    advice = {category.id: category for category in shop.policies["shop"].categories}["financial_advice"]
    assert (advice.block_above, advice.title) == (0.7, "Personal financial advice")
