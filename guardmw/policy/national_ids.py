"""Identity and tax numbers of countries, by format, check digits (`stdnum`) and, for bare digits, the words before."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module

from guardmw.policy.detector import Detector, Span, preceded_by


@dataclass(frozen=True)
class NationalId:
    """One number: its format, the `stdnum` module that checks it, and the words one of which must stand before it."""

    shape: str
    module: str | None = None
    context: str | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?:{self.shape})(?![A-Za-z0-9]|[-.]\d)", re.ASCII)

    @cached_property
    def words(self) -> re.Pattern[str]:
        return re.compile(self.context or "", re.IGNORECASE)

    @cached_property
    def check(self) -> Callable[[str], bool]:
        return import_module(f"stdnum.{self.module}").is_valid if self.module else lambda text: True

    def end(self, match: re.Match[str]) -> int | None:
        """Where the number that starts with `match` ends, or None if there is none."""
        found = self.pattern.match(match.string, match.start())
        if found is None or (self.context and not preceded_by(match, self.words)) or not self.check(found[0]):
            return None
        return found.end()


NATIONAL_IDS = (
    NationalId(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]"),  # UK NINO
    NationalId(r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"\bnhs\b"),
    NationalId(r"\d{8}-?[A-Z]", "es.dni"),
    NationalId(r"[XYZ]-?\d{7}-?[A-Z]", "es.nie"),
    NationalId(r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]", "it.codicefiscale"),
    NationalId(r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", "fr.nir"),
    NationalId(r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "de.idnr", r"steuer|idnr|id-?nr|tax|tin\b"),
    NationalId(r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf"),
    NationalId(r"\d{11}", "br.cpf", r"\bcpf\b"),
    NationalId(r"\d{4}[ -]?\d{4}[ -]?\d{4}(?:\d\d)?", None, r"aadh?aa?r|uidai"),
    NationalId(r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", "in_.pan"),
    NationalId(r"\d{3}\.?\d{3}\.?\d{3}", "nl.bsn", r"\bbsn\b|burgerservice|sofinummer"),
    NationalId(r"\d{11}", "pl.pesel", r"pesel"),
    NationalId(r"(?:19|20)?\d{6}[-+]\d{4}", "se.personnummer"),
    NationalId(r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", "fi.hetu"),
    NationalId(r"\d{6}-?\d{4}", "dk.cpr", r"\bcpr\b|personnummer"),
    NationalId(r"\d{6} ?\d{5}", "no.fodselsnummer", r"f[oø]dselsn|personnummer|\bfnr\b"),
    NationalId(r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn"),
    NationalId(r"756[.]\d{4}[.]\d{4}[.]\d{2}", "ch.ssn"),
    NationalId(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", "mx.curp"),
    NationalId(r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]", "cl.rut"),
    NationalId(r"\d{17}[\dXx]", "cn.ric"),
    NationalId(r"\d{6}-\d{7}", "kr.rrn"),
    NationalId(r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"\bsin\b|social insurance"),
    NationalId(r"\d{3} ?\d{3} ?\d{3}", "au.tfn", r"\btfn\b|tax file"),
    NationalId(r"9\d\d-[5-9]\d-\d{4}", "us.itin"),
    NationalId(r"\d{2}-\d{7}", None, r"\bein\b|tax[ -]?(?:id|payer|number)|\btin\b|employer id"),
    NationalId(r"\d{13}", "za.idnr", r"identity n|\bid n|south africa"),
    NationalId(r"\d{13}", "ro.cnp", r"\bcnp\b"),
    NationalId(r"\d{11}", "tr.tckimlik", r"kimlik|\bt\.?c\.?\b"),
)
_GATE = re.compile(r"\d(?:[ .-]?\d){5}|[A-Z]{5}\d{4}[A-Z]|[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T]", re.ASCII)


@lru_cache(maxsize=1)
def national_id_detector() -> Detector:
    """One detector for all of NATIONAL_IDS."""
    shapes = "|".join(number.pattern.pattern for number in NATIONAL_IDS)
    for number in NATIONAL_IDS:
        _ = number.check  # imports happen now, not while a text is waiting
    return Detector("national_id", re.compile(rf"(?<![\w.-])(?:{shapes})", re.ASCII), _national_id, gate=_GATE)


def _national_id(match: re.Match[str]) -> Span | None:
    """The longest number that some country would accept."""
    ends = [end for number in NATIONAL_IDS if (end := number.end(match)) is not None]
    return (match.start(), max(ends)) if ends else None
