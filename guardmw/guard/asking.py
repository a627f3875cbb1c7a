"""The calls that one check takes: each with its span, its tokens counted, its answer read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from guardmw.errors import GuardAnswerError, GuardError
from guardmw.guard.families.base import Request
from guardmw.guard.replies import usage_of
from guardmw.guard.verdict import Reading, positions_of, read
from guardmw.guard.wire import Deadline, Wire
from guardmw.telemetry.chat import ChatSpan
from guardmw.types import Check, TokenUsage

__all__ = ["Asker", "choice_of", "together", "written"]

Value = TypeVar("Value")

ASK_ON_ABOVE = 0.01
"""A beginning that several labels share is followed when it holds more than this probability."""
MAX_ASK_ON = 8
MAX_AT_ONCE = 16
"""Calls of one check under way at once: a text of many windows doesn't take the server from the others."""
GUESSED_CHARS_PER_TOKEN = 2.0


class Asker:
    """Asks on behalf of one check. `fields` go with every request; `tokens` counts what the calls took."""

    def __init__(
        self, wire: Wire, check: Check, *, family: str, model: str | None, fields: Mapping[str, object],
        deadline: Deadline, guard: str,
    ) -> None:  # fmt: skip
        self.tokens = TokenUsage()
        self._wire, self._check, self._family, self._model = wire, check, family, model
        self._fields, self._deadline, self._guard = fields, deadline, guard
        self._key = check.stream_id or check.id
        self._calls = 0
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def reading(self, request: Request, labels: Mapping[str, object]) -> Reading:
        """How likely each label is. Beginnings that several labels share are asked on."""
        reading = await self._asked(request, labels, "")
        for _ in range(MAX_ASK_ON):
            waiting = [each for each in reading.open if each[1] > ASK_ON_ABOVE]
            if not waiting or not request.can_continue:
                break
            begun, weight = max(waiting, key=lambda each: each[1])
            reading.open.remove((begun, weight))
            reading.add(await self._asked(request.continued(begun), labels, begun), weight)
        return reading.checked(self._guard)

    async def _asked(self, request: Request, labels: Mapping[str, object], begun: str) -> Reading:
        answer = await self.send(request)
        if request.classify:
            return _classified(answer, tuple(labels))
        return read(positions_of(choice_of(answer), chat=bool(request.messages)), labels, begun)

    async def send(self, request: Request) -> dict[str, Any]:
        """One call, its span and its tokens."""
        async with self._places:
            return await self._spanned(request)

    async def _spanned(self, request: Request) -> dict[str, Any]:
        self._calls += 1
        request_id = self._check.id if self._calls == 1 else f"{self._check.id}-{self._calls}"
        headers = {"x-request-id": request_id}
        first = self._wire.endpoints[0]
        span = ChatSpan(self._model or first.model or self._family, first.host, first.port)
        span.inject(headers)
        try:
            answer, endpoint = await self._wire.post(
                request.path,
                {"model": self._model, **request.body(), **self._fields},
                key=self._key,
                deadline=self._deadline,
                headers=headers,
            )
        except GuardError as error:
            span.fail(error.error_type)
            raise
        except BaseException:
            span.cancel()
            raise
        usage = usage_of(answer)
        span.end(answer, usage, endpoint.host, endpoint.port)
        self.tokens = TokenUsage(
            self.tokens.prompt + usage.prompt,
            self.tokens.cached + usage.cached,
            self.tokens.completion + usage.completion,
        )
        return answer

    async def count(self, request: Request) -> int:
        """How many tokens `request` takes; a guess where the server can't count."""
        try:
            answer, _ = await self._wire.post(
                "/tokenize",
                {**({"model": self._model} if self._model else {}), **request.tokenize_body()},
                key=self._key,
                deadline=self._deadline,
                headers={},
            )
        except GuardError:
            answer = {}
        count = answer.get("count")
        return count if isinstance(count, int) else int(len(str(request.body())) / GUESSED_CHARS_PER_TOKEN)


async def together(*work: Coroutine[Any, Any, Value]) -> list[Value]:
    """All results, in order. When one fails the others are cancelled, and that failure is raised."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def choice_of(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise GuardAnswerError("the guard's server answered without a choice; is it an OpenAI-compatible server?")
    choice: dict[str, Any] = choices[0]
    return choice


def written(choice: Mapping[str, Any], *, chat: bool) -> tuple[str, str]:
    """What the guard wrote to its end, and the thought that the server took out of it.

    Raises GuardAnswerError when the guard was cut off.
    """
    if (finished := choice.get("finish_reason")) not in (None, "stop"):
        raise GuardAnswerError(f"the guard was cut off before its end (finish_reason {finished!r})")
    message = choice.get("message") if chat else None
    if not isinstance(message, dict):
        return str(choice.get("text") or ""), ""
    return str(message.get("content") or ""), str(message.get("reasoning") or message.get("reasoning_content") or "")


def _classified(answer: Mapping[str, Any], labels: tuple[str, ...]) -> Reading:
    """A classifier's probabilities, by its labels as they are: one of them may begin another."""
    data = answer.get("data")
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    numbers = first.get("probs")
    if not isinstance(numbers, list) or not all(_is_probability(number) for number in numbers):
        raise GuardAnswerError("the classifier's answer has no probabilities; serve it with --runner pooling")
    if len(numbers) != len(labels):
        raise GuardAnswerError(
            f"the classifier has {len(numbers)} labels, {len(labels)} were configured ({', '.join(labels)}); list them "
            "in the order of its id2label"
        )
    likeliest = labels[numbers.index(max(numbers))]
    if isinstance(said := first.get("label"), str) and said.casefold() != likeliest.casefold():
        raise GuardAnswerError(
            f"the classifier calls its likeliest label {said!r}, configured is {likeliest!r}; list the labels in the "
            "order of its id2label"
        )
    return Reading(dict(zip(labels, map(float, numbers), strict=True)))


def _is_probability(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1
