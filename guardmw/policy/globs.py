"""Globs over names, as `fnmatch` reads them with case: ``*``, ``?``, ``[abc]``, ``[!abc]``."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache

_TOKEN = re.compile(r"\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


def is_glob(pattern: str) -> bool:
    """True when `pattern` can match other names than itself."""
    return any(_is_wild(token) for token in _TOKEN.findall(pattern))


def literal_chars(pattern: str) -> int:
    """How many characters of a matching name `pattern` fixes: its specificity."""
    return sum(not _is_wild(token) for token in _TOKEN.findall(pattern))


def overlap(one: str, other: str) -> bool:
    """True when some name matches both patterns."""
    left, right = _TOKEN.findall(one), _TOKEN.findall(other)

    @cache
    def meet(i: int, j: int) -> bool:
        if i < len(left) and left[i] == "*":
            return meet(i + 1, j) or (j < len(right) and meet(i, j + 1))
        if j < len(right) and right[j] == "*":
            return meet(i, j + 1) or (i < len(left) and meet(i + 1, j))
        if i == len(left) or j == len(right):
            return i == len(left) and j == len(right)
        return _share(left[i], right[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def _is_wild(token: str) -> bool:
    return token in ("*", "?") or len(token) > 1


def _share(one: str, other: str) -> bool:
    """True when a character matches both single-character tokens: ranges that meet, meet at an end of one of them."""
    ends = {chr(min(ord(char) + step, 0x10FFFF)) for char in one + other + "\uffff" for step in (0, 1)}
    before = {chr(max(ord(char) - 1, 0)) for char in one + other}
    return any(fnmatchcase(char, one) and fnmatchcase(char, other) for char in ends | before)
