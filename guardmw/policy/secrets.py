"""Detectors of credentials with a form of their own: keys, tokens, key blocks. Formats are `detect_secrets`' where it
has them, and the vendors' documentation's otherwise. Passwords and keys known by their names are `assignments`'."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import assert_never

from guardmw.policy.assignments import (
    api_key_assignment,
    aws_secret_assignment,
    connection_string,
    looks_random,
    mixes_cases,
    password_assignments,
    token_assignments,
)
from guardmw.policy.detector import Detector, Span, whole
from guardmw.policy.schema import SecretEntity, SecretsDetector

TOKEN_CHARS = 512
KEY_BLOCK_CHARS = 8192
JWT_CHARS = 4096

_PLUGINS: dict[str, tuple[tuple[str, tuple[str, ...] | re.Pattern[str]], ...]] = {
    "cloud_key": (("azure_storage_key.AzureStorageKeyDetector", ("accountkey=",)),),
    "api_key": (
        ("stripe.StripeDetector", ("rk_live_", "sk_live_")),
        ("sendgrid.SendGridDetector", ("sg.",)),
        ("mailchimp.MailchimpDetector", re.compile("-us[0-9]")),
        ("square_oauth.SquareOAuthDetector", ("sq0csp-",)),
        ("telegram_token.TelegramBotTokenDetector", re.compile("[0-9]{8}:")),
        ("discord.DiscordBotTokenDetector", re.compile(r"[MNO][A-Za-z\d_-]{23}")),
        ("github_token.GitHubTokenDetector", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
        ("slack.SlackDetector", ("xox", "https://hooks.slack.com/services/t")),
    ),
    "access_token": (
        ("gitlab_token.GitLabTokenDetector", ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "gr1348941", "glcbt-",
                                              "glimt-", "glptt-", "glagent-", "gloas-")),
        ("pypi_token.PypiTokenDetector", ("pypi-age",)),
    ),
}  # fmt: skip
"""Classes under `detect_secrets.plugins`, each with how its matches begin (lower case) or what they contain."""

_WORD = r"[0-9A-Za-z]"
_DASHED = r"[0-9A-Za-z_-]"
_AWS_KEY_ID_PREFIXES = ("a3t", "abia", "acca", "akia", "asia")
_CLOUD_PREFIXES = {
    "AIza": r"[0-9A-Za-z_-]{35}",
    "GOCSPX-": r"[0-9A-Za-z_-]{20,40}",
    "ya29.": r"[0-9A-Za-z_-]{20,400}",
    "LTAI": r"[0-9A-Za-z]{12,24}",
    "amzn.mws.": r"[0-9a-z-]{36}",
    "da2-": r"[a-z0-9]{26}",
    "dop_v1_": r"[a-f0-9]{64}",
    "doo_v1_": r"[a-f0-9]{64}",
    "cfut_": r"[0-9A-Za-z]{40,60}",
    "cfat_": r"[0-9A-Za-z]{40,60}",
    "1//0": rf"{_DASHED}{{40,200}}",
    "cfk_": r"[0-9A-Za-z]{40,60}",
}
_AZURE_SECRET = re.compile(r"(?<![A-Za-z0-9_~.-])[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}")
_AZURE_GATE = re.compile("[0-9]Q~")

_API_KEY_PREFIXES = {
    "sk-": rf"{_DASHED}{{20,400}}",
    "sk_test_": rf"{_WORD}{{16,200}}",
    "rk_live_": rf"{_WORD}{{16,200}}",
    "rk_test_": rf"{_WORD}{{16,200}}",
    "whsec_": rf"{_WORD}{{24,64}}",
    "key-": r"[0-9a-f]{32}",
    "AC": r"[0-9a-f]{32}",
    "SK": r"[0-9a-f]{32}",
    "github_pat_": rf"{_DASHED}{{22,255}}",
    "xapp-": rf"{_DASHED}{{20,200}}",
    "hf_": rf"{_WORD}{{30,64}}",
    "gsk_": rf"{_WORD}{{32,64}}",
    "xai-": rf"{_WORD}{{40,128}}",
    "pplx-": rf"{_WORD}{{32,64}}",
    "r8_": rf"{_WORD}{{37,40}}",
    "tgp_v1_": rf"{_DASHED}{{40,64}}",
    "tvly-": rf"{_DASHED}{{20,64}}",
    "lsv2_": rf"{_DASHED}{{40,64}}",
    "PMAK-": r"[0-9a-f-]{40,64}",
    "NRAK-": r"[0-9A-Z]{27}",
    "phx_": rf"{_WORD}{{40,64}}",
    "phs_": rf"{_WORD}{{40,64}}",
    "lin_api_": rf"{_WORD}{{32,64}}",
    "squ_": r"[0-9a-f]{40}",
    "sqa_": r"[0-9a-f]{40}",
    "shpss_": r"[0-9a-fA-F]{32}",
    "EAAA": rf"{_DASHED}{{60}}",
    "bedrock-api-key-": rf"{_WORD}{{20,400}}",
    "AGE-SECRET-KEY-1": r"[0-9A-Z]{58}",
    "ABSK": r"[0-9A-Za-z+/]{60,200}",
    "llx-": rf"{_WORD}{{40,64}}",
    "sbp_": r"(?:v0_)?[0-9a-f]{40}",
    "sq0atp-": rf"{_DASHED}{{22}}",
    "NRJS-": r"[0-9a-f]{19}",
    "HRKU-": rf"{_DASHED}{{36,64}}",
    "phr_": rf"{_WORD}{{40,64}}",
}
_ACCESS_TOKEN_PREFIXES = {
    "npm_": rf"{_WORD}{{36}}",
    "shpat_": r"[0-9a-fA-F]{32}",
    "shpca_": r"[0-9a-fA-F]{32}",
    "shppa_": r"[0-9a-fA-F]{32}",
    "ATATT3": r"[0-9A-Za-z_=-]{40,400}",
    "dapi": r"[0-9a-f]{32}",
    "glsa_": r"[0-9A-Za-z_]{32,64}",
    "glc_": r"[0-9A-Za-z+/=]{32,400}",
    "hvs.": rf"{_DASHED}{{24,200}}",
    "nfp_": rf"{_WORD}{{36,64}}",
    "sntrys_": r"[0-9A-Za-z_+/=-]{40,400}",
    "sntryu_": r"[0-9a-f]{64}",
    "dckr_pat_": rf"{_DASHED}{{27,64}}",
    "rubygems_": r"[0-9a-f]{48}",
    "figd_": rf"{_DASHED}{{40,64}}",
    "ntn_": rf"{_WORD}{{40,64}}",
    "dt0c01.": r"[0-9A-Z]{24}\.[0-9A-Z]{64}",
    "dp.pt.": rf"{_WORD}{{40,64}}",
    "pscale_tkn_": rf"{_DASHED}{{32,64}}",
    "SWMTKN-1-": r"[0-9a-z-]{50,100}",
    "AKCp": rf"{_WORD}{{60,80}}",
    "BBDC-": r"[0-9A-Za-z+/]{40,64}",
    "CLOJARS_": r"[0-9a-f]{60}",
    "dckr_oat_": rf"{_DASHED}{{27,64}}",
    "sl.": rf"{_DASHED}{{80,400}}",
    "SWMKEY-1-": r"[0-9A-Za-z+/]{40,50}",
    "vcp_": rf"{_WORD}{{40,64}}",
    "xoxe-": rf"{_DASHED}{{20,400}}",
    "xoxe.xox": rf"[bp]-{_DASHED}{{20,400}}",
    "ops_eyJ": rf"{_DASHED}{{60,1000}}",
}

_JWT = re.compile(r"(?<![A-Za-z0-9_-])(?P<head>eyJ[\w=-]{5,1000})\.[\w=-]{5,4000}(?:\.[\w=-]{0,1000})?", re.ASCII)

_GAP = r"(?:[\s\"'`,*#>|]|\\{1,4}[nrt]|\s\+\s)"
_BASE64 = r"[A-Za-z0-9+/=]"
_PEM = re.compile(
    rf"-----BEGIN [A-Z0-9 ]{{0,32}}PRIVATE KEY(?: BLOCK)?-----"
    rf"(?:{_GAP}{{1,32}}[A-Z][A-Za-z-]{{2,24}}: ?[^\n\\]{{0,120}})"
    rf"{{0,6}}(?:{_GAP}{{1,32}}{_BASE64}{{16,4096}}){{1,200}}"
    rf"(?:(?:{_GAP}{{1,32}}{_BASE64}{{1,76}})?{_GAP}{{0,32}}-----END[A-Z0-9 ]{{0,40}}-----)?"
)
_PUTTY = re.compile(
    r"PuTTY-User-Key-File-\d: [\w-]{1,40}"
    r"(?:\s{1,4}[A-Z][A-Za-z0-9-]{2,24}: ?[^\n]{0,200}|\s{1,4}[A-Za-z0-9+/=]{8,80}){1,200}"
)
_ENCODED_PEM = re.compile(r"(?<![A-Za-z0-9+/])LS0tLS1CRUdJTi[A-Za-z0-9+/]{26,}={0,2}")

_RANDOM = re.compile(r"(?<![A-Za-z0-9+/=_.-])[A-Za-z0-9+/_-]{20,512}={0,2}(?![A-Za-z0-9+/=_.-])")
_ENTROPY_LIMIT_BITS = 4.5
_HEX_ENTROPY_LIMIT_BITS = 3.0


def secret_detectors(config: SecretsDetector) -> list[Detector]:
    """The detectors of `config.entities`, in that order."""
    return [detector for entity in config.entities for detector in _detectors(entity)]


def _detectors(entity: SecretEntity) -> Iterator[Detector]:
    match entity:
        case "private_key":
            yield Detector(entity, _PEM, leads=("-----begin ",), max_chars=KEY_BLOCK_CHARS)
            yield Detector(entity, _PUTTY, leads=("putty-user-key-file-",), max_chars=KEY_BLOCK_CHARS)
            yield Detector(entity, _ENCODED_PEM, _encoded_pem, ("ls0tls1crudjti",), max_chars=KEY_BLOCK_CHARS)
        case "cloud_key":
            yield _aws_key_id()
            yield _prefixed(entity, _CLOUD_PREFIXES)
            yield Detector(entity, _AZURE_SECRET, gate=_AZURE_GATE)
            yield aws_secret_assignment()
        case "api_key":
            yield _prefixed(entity, _API_KEY_PREFIXES)
            yield api_key_assignment()
        case "access_token":
            yield _prefixed(entity, _ACCESS_TOKEN_PREFIXES)
            yield from token_assignments()
        case "jwt":
            yield Detector(entity, _JWT, _jwt, leads=("eyj",), max_chars=JWT_CHARS)
        case "password":
            yield from password_assignments()
        case "connection_string":
            yield connection_string()
        case "high_entropy":
            import_module("detect_secrets.plugins.high_entropy_strings")  # now, not while a text is waiting
            yield Detector(entity, _RANDOM, _high_entropy, gate=_RANDOM)
        case _:
            assert_never(entity)
    yield from _from_plugins(entity)


def _from_plugins(entity: SecretEntity) -> Iterator[Detector]:
    for path, clue in _PLUGINS.get(entity, ()):
        leads, gate = ((), clue) if isinstance(clue, re.Pattern) else (clue, None)
        for pattern in _denylist(path):
            yield Detector(entity, pattern, leads=leads, gate=gate, max_chars=TOKEN_CHARS)


def _denylist(path: str) -> tuple[re.Pattern[str], ...]:
    module, name = path.split(".")
    patterns = getattr(import_module(f"detect_secrets.plugins.{module}"), name).denylist
    return tuple(re.compile(pattern.pattern, pattern.flags & ~re.UNICODE | re.ASCII) for pattern in patterns)


def _aws_key_id() -> Detector:
    key_id = _denylist("aws.AWSKeyDetector")[0].pattern
    return Detector("cloud_key", re.compile(rf"(?<![A-Z0-9])(?:{key_id})(?![A-Z0-9])"), leads=_AWS_KEY_ID_PREFIXES)


def _prefixed(entity: SecretEntity, bodies: dict[str, str]) -> Detector:
    """Tokens known by how they begin; `bodies` says what follows each prefix."""
    forms = "|".join(re.escape(prefix) + body for prefix, body in bodies.items())
    pattern = re.compile(rf"(?<![A-Za-z0-9-])(?:{forms})")
    return Detector(entity, pattern, _token, tuple(prefix.lower() for prefix in bodies), max_chars=1024)


def _token(match: re.Match[str]) -> Span | None:
    """Not words joined by dashes, which some prefixes begin too."""
    return match.span() if looks_random(match[0]) or mixes_cases(match[0]) else None


def _jwt(match: re.Match[str]) -> Span | None:
    """One whose header is JSON (RFC 7519)."""
    head = match["head"].rstrip("=")
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error):
        return None
    return match.span() if isinstance(header, dict) else None


def _encoded_pem(match: re.Match[str]) -> Span | None:
    """A PEM block in base64, when the block is a private key."""
    return (
        match.span()
        if b"PRIVATE KEY" in base64.b64decode(match[0][:40]) + base64.b64decode(match[0][40:80] + "==")
        else None
    )


def _high_entropy(match: re.Match[str]) -> Span | None:
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString

    value = match[0]
    is_hex = re.fullmatch(r"[0-9A-Fa-f]+", value) is not None and not value.isdigit()
    plugin, limit = (
        (HexHighEntropyString, _HEX_ENTROPY_LIMIT_BITS) if is_hex else (Base64HighEntropyString, _ENTROPY_LIMIT_BITS)
    )
    return whole(match) if plugin(limit).calculate_shannon_entropy(value) > limit else None
