"""Guards, and how a guard is named."""

from __future__ import annotations

from guardmw.errors import GuardConfigError
from guardmw.guard.base import Guard

__all__ = ["Guard", "resolve_guard"]

KNOWN_GUARDS = ("embedded", "embedded:URL", "detectors", "vllm", "vllm:URL", "cascade", "cascade:URL")
"""Names that `resolve_guard` understands."""

_MEMBERS = ("check", "aclose", "name", "version")


def resolve_guard(guard: Guard | str) -> Guard:
    """The guard that `guard` names; a guard itself passes through.

    ``embedded`` is the small model that ships in the package, ``embedded:URL`` the same with its encoder on vLLM
    servers, see `guardmw.guard.remote`. ``detectors`` judges by detectors and rules alone.
    ``vllm:URL[,URL…][?option=…]`` is a guard model on vLLM servers, see `guardmw.guard.spec`. ``cascade:URL…`` asks the
    embedded guard first and that one where it isn't sure. ``vllm`` and ``cascade`` alone take the URL from
    ``GUARDMW_GUARD_URL``, or the server on this machine's port 8000.

    Raises GuardConfigError when the name is unknown, when the object is no guard, or when the guard can't be built.
    """
    return _named(guard) if isinstance(guard, str) else _checked(guard)


def _named(name: str) -> Guard:
    if name == "embedded":
        from guardmw.guard.embedded import EmbeddedGuard

        return EmbeddedGuard()
    if name == "detectors":
        from guardmw.guard.detectors_only import DetectorsOnlyGuard

        return DetectorsOnlyGuard()
    kind, colon, spec = name.partition(":")
    if kind == "embedded":
        from guardmw.guard.spec import encoder_at

        return encoder_at(spec)
    if kind == "vllm":
        from guardmw.guard.spec import guard_at, url_from_environment

        return guard_at(spec if colon else url_from_environment())
    if kind == "cascade":
        return _cascade(spec if colon else None)
    known = f"Guards known: {', '.join(KNOWN_GUARDS)}, or a Guard object of your own."
    raise GuardConfigError(f"there is no guard called {kind!r}. {known}")


def _cascade(spec: str | None) -> Guard:
    from guardmw.guard.cascade import CascadeGuard
    from guardmw.guard.spec import guard_at, url_from_environment

    second = guard_at(url_from_environment() if spec is None else spec.removeprefix("vllm:"))
    return CascadeGuard(_named("embedded"), second)


def _checked(guard: Guard) -> Guard:
    missing = [member for member in _MEMBERS if not hasattr(guard, member)]
    if isinstance(guard, type):
        raise GuardConfigError(f"{guard.__name__} is a class, not a guard; pass an instance: {guard.__name__}(...)")
    if missing:
        raise GuardConfigError(
            f"{type(guard).__name__} is no guard: it lacks {', '.join(missing)}. "
            "A guard has `name`, `version`, `async check(check, policy)` and `async aclose()`."
        )
    return guard
