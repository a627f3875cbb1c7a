"""Values the detectors must find, made up or published as examples, and texts that only look like them."""

from __future__ import annotations

import base64
from typing import get_args

from guardmw.policy.detectors import DetectorSet, detectors_for
from guardmw.policy.schema import Detectors, PiiDetector, PiiEntity, Policy, SecretEntity, SecretsDetector

PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\n"
    + "\n".join(f"MIIEpAIBAAKCAQEA7bq3Zk0QwY2m9xFh{i:02d}LrT8vNc5uJd1sPoEgKa" for i in range(6))
    + "\nq0Zt==\n-----END RSA PRIVATE KEY-----"
)

PII: dict[str, tuple[str, ...]] = {
    "email": ("john.doe@example.com", "a_b+tag@mail.shop.co.uk", "x@sub-domain.museum"),
    "phone": ("(415) 555-0132", "415-555-0132", "+44 20 7946 0958", "+1-202-555-0199", "+41 (0)44 668 18 00"),
    "credit_card": ("4111 1111 1111 1111", "5555555555554444", "3782-822463-10005", "6011111111111117"),
    "iban": ("GB29 NWBK 6016 1331 9268 19", "DE89370400440532013000", "gb29nwbk60161331926819"),
    "us_ssn": ("536-90-4399", "536 90 4399"),
    "national_id": ("AB123456C", "12345678Z", "RSSMRA85T10A562S", "111.444.777-35", "1 85 05 78 006 084 91"),
    "ip_address": ("203.0.113.77", "2001:db8::8a2e:370:7334", "fe80::1"),
    "mac_address": ("00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e", "001a.2b3c.4d5e"),
    "crypto_wallet": (
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        "0x52908400098527886E0F7030069857D2E4169EE7",
    ),
}

SECRETS: dict[str, tuple[str, ...]] = {
    "private_key": (PEM, base64.b64encode(PEM.encode()).decode()),
    "cloud_key": ("AKIAIOSFODNN7EXAMPLE", "AIza" + "SyD4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T"),
    "api_key": (
        "sk-proj-" + "abcDEF1234567890abcDEF1234",
        "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
        "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx",
    ),
    "access_token": ("npm_" + "Alm0StFaK3t0kEN8uTval1DcRC32dc1Bscp5", "glpat-" + "x1Y2z3A4b5C6d7E8f9G0"),
    "jwt": (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    ),
}

NAMED_SECRETS: dict[str, tuple[tuple[str, str], ...]] = {
    "password": (
        ("password: {}", "hunter2"),
        ('"db_password": "{}"', "s3cr!t"),
        ("my password is {} ok", "Tr0ub4dor&3"),
        ("user bob and password {}", "!PurpleSky77"),
        ("IDENTIFIED BY '{}';", "SqLpa5sW0rD"),
        ("pwd={}", "Prl23Db#@"),
    ),
    "api_key": (
        ("api_key = '{}'", "AIhq5Xyb1Gga9Q19"),
        ("client secret: {}", "k8Jx2LmQ9vRt7WzB"),
        ('KEY="{}"', "gmUGWxhQW9KQWdhd0lCQVFRZ0Vi"),
    ),
    "access_token": (
        ("Authorization: Bearer {}", "mF_9.B5f-4.1JqMabc77Z"),
        ("auth_token={}", "AIhq5Xyb1Gga9Q2"),
    ),
    "cloud_key": (("aws_secret_access_key = {}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),),
    "connection_string": (("postgres://bob:{}@db.example.com/x", "pa55w0rd"),),
}

HARMLESS = (
    "call me at noon, please",
    "version 1.2.3.4 and v10.0.0.1 and 1.2.3.4.5",
    "icon@2x.png and git@github.com:org/repo.git",
    "std::vector<int> a::b; at 10:20:30",
    "in 2023, 1999-2004, on 2024-05-17 at 12:30, 3.14159265358979",
    "order number 4155550132, card of hearts",
    "4111 1111 1111 1112 is no number of anyone",
    "the password must be at least 8 characters",
    "password: str, password=password, password = os.environ['X'], password: ${PW}",
    "password <password>, password: ****, password: [PASSWORD]",
    "the passage 'Of Mice' and the passenger list",
    "a token is a unit of text; key: value; the secret of success: hard work",
    "bearer of responsibilities-and-duties",
    "https://example.com/a:b@c",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
    "sk-learn-is-a-library-for-machine-learning",
    "000-12-3456 and 666-12-3456 and 123-45-678",
    "00:00:00:00:00:00 and 127.0.0.1 and 255.255.255.0",
)

ALL_PII: tuple[PiiEntity, ...] = get_args(PiiEntity)
ALL_SECRETS: tuple[SecretEntity, ...] = get_args(SecretEntity)


def detectors(**settings: object) -> DetectorSet:
    return detectors_for(Policy(id="test", detectors=Detectors.model_validate(settings)), "output")


def everything() -> DetectorSet:
    known = tuple(entity for entity in ALL_SECRETS if entity != "high_entropy")
    return detectors(pii=PiiDetector(entities=ALL_PII), secrets=SecretsDetector(entities=known))


def found(text: str, chosen: DetectorSet | None = None) -> list[tuple[str, str]]:
    matches = (chosen or everything()).scan(text).matches
    return [(match.entity, text[match.start : match.end]) for match in matches]


def full_width(text: str) -> str:
    return "".join(chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character for character in text)
