"""The JSON Schema of policy files, for editors."""

from __future__ import annotations

import json
from typing import Any

from guardmw.policy.schema import Policy

NEVER_INHERITED: dict[str, tuple[str, ...]] = {
    "Policy": ("id",),
    "Category": ("id",),
    "PatternDetector": ("id",),
    "SequenceRule": ("name",),
}
"""The keys that must be written in every file, per model whose other keys may come from a policy it extends."""

KEY_DESCRIPTIONS = {
    "version": "Version of this format.",
    "id": "The policy's name, unique in its set. Other policies extend it under this name.",
    "description": "For people; no guard reads it.",
    "extends": "Ids of the policies this one builds on, merged in order; later ones win, this file last.",
    "agents": "Agents this policy holds for: exact names and globs, matched with case.",
    "mode": "enforce, or shadow: decide and record, change nothing.",
    "strictness": "0 lenient to 1 strict: moves every threshold along the guard's calibration curve.",
    "categories": "What is forbidden. An entry with an inherited id changes that category's keys.",
    "detectors": "Deterministic detectors of personal data, secrets and patterns of your own. null turns one off.",
    "tools": "Rules over tool calls. Rules are tried in order, the first match wins, inherited ones come last.",
    "streaming": "How streamed text is held and cut into checks.",
    "on_guard_error": "What a failing guard means, per surface.",
    "limits": "Deadline and rate of checks, and how often the same call may be refused in one run.",
    "messages": "What users read instead of text that is withheld.",
}


def policy_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a policy as written: keys that may be inherited are optional."""
    schema = Policy.model_json_schema()
    models = {"Policy": schema, **schema["$defs"]}
    for name, required in NEVER_INHERITED.items():
        models[name]["required"] = list(required)
    for key, text in KEY_DESCRIPTIONS.items():
        schema["properties"][key]["description"] = text
    schema["description"] = "A guardmw policy."
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def policy_json_schema_text() -> str:
    """The schema as the text of the file that is shipped beside the policies."""
    return json.dumps(policy_json_schema(), indent=2, ensure_ascii=False) + "\n"
