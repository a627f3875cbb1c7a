"""One call of a guarded model: the user's messages judged, the inner model asked, its answer judged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from guardmw.policy.schema import Policy
from guardmw.stream.gate import guard_stream
from guardmw.stream.items import Blocked, Delta, Item, Opaque
from guardmw.types import Check, Decision, Message
from guardmw_langgraph.answer import Answer, Unread
from guardmw_langgraph.calls import Calls
from guardmw_langgraph.held import Held
from guardmw_langgraph.history import Past
from guardmw_langgraph.internals import InContext, hidden_context, iterate_in, may_stream, prefers_streaming
from guardmw_langgraph.loop import Loop
from guardmw_langgraph.screen import conversation
from guardmw_langgraph.seam import Seam, blocked_text
from guardmw_langgraph.whole import as_chunk, merged, reassembled, remarked


@dataclass(frozen=True)
class _Judging:
    """What every check of the turn is made with."""

    policy: Policy
    agent: str
    conversation: tuple[Message, ...]
    past: Past


@dataclass(frozen=True)
class Turn:
    """A call of `inner` with `stop` and `kwargs`. The inner call runs where no callback or tracer can see it. Within a
    `loop` a call that may not be made stays, without its arguments, to be answered there."""

    inner: BaseChatModel
    seam: Seam
    stop: list[str] | None
    kwargs: dict[str, Any]
    loop: Loop | None = None
    context: Context = field(default_factory=hidden_context)

    async def streamed(self, messages: list[BaseMessage]) -> AsyncGenerator[ChatGenerationChunk, None]:
        """The guarded answer, chunk by chunk; the last one carries the metadata. Closing it stops the model."""
        judging, messages, blocked = await self._begin(messages)
        answer = Answer()
        if blocked is not None:
            for chunk in self._refused(answer, judging, blocked):
                yield chunk
        elif not may_stream(self.inner, self.kwargs):
            for generation in (await self._asked(messages, judging)).generations[:1]:
                yield as_chunk(generation)
        else:
            async with aclosing(self._gated(answer, self._deltas(answer, messages), judging)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def whole(self, messages: list[BaseMessage]) -> ChatResult:
        """The guarded answer at once. The inner model streams only if it is set to."""
        if prefers_streaming(self.inner, self.kwargs):
            return merged([chunk async for chunk in self.streamed(messages)])
        judging, messages, blocked = await self._begin(messages)
        if blocked is not None:
            return merged(self._refused(Answer(), judging, blocked))
        return await self._asked(messages, judging)

    async def _begin(self, messages: list[BaseMessage]) -> tuple[_Judging, list[BaseMessage], Decision | None]:
        agent = self.seam.agent
        policy = await self.seam.checker.policy_for(agent)
        screened = await self.seam.screen.screen(messages, policy, agent)
        said = screened.messages
        past = self.seam.history.past(self.loop.messages if self.loop else messages, policy)
        return _Judging(policy, agent, conversation(said), past), said, screened.blocked

    async def _asked(self, messages: list[BaseMessage], judging: _Judging) -> ChatResult:
        call = self.inner._agenerate(messages, stop=self.stop, **self.kwargs)
        result = await InContext(call, self.context)
        answers = [Answer() for _ in result.generations]
        held = replace(judging, policy=_holding(judging.policy))
        generations = [
            await self._judged(answer, generation, held)
            for answer, generation in zip(answers, result.generations, strict=True)
        ]
        output = result.llm_output
        for answer in answers:
            output = output and answer.clean(output)
        return ChatResult(generations=generations, llm_output=output)

    async def _judged(self, answer: Answer, generation: ChatGeneration, judging: _Judging) -> ChatGeneration:
        chunks = [chunk async for chunk in self._gated(answer, _taken_apart(answer, generation), judging)]
        return reassembled(chunks, generation) if answer.altered else remarked(generation, chunks[-1])

    async def _deltas(self, answer: Answer, messages: list[BaseMessage]) -> AsyncGenerator[Delta, None]:
        source = self.inner._astream(messages, stop=self.stop, **self.kwargs)
        async with aclosing(iterate_in(self.context, source)) as chunks:
            async for chunk in chunks:
                for delta in answer.push(chunk):
                    yield delta
        for delta in answer.flush():
            yield delta

    async def _gated(
        self, answer: Answer, source: AsyncIterator[Delta], judging: _Judging
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """What may be shown of `source`, then what was held, the replacement of what was withheld, the metadata."""
        gate = guard_stream(
            source, self.seam.checker, judging.policy, agent=judging.agent,
            conversation=judging.conversation, calls=judging.past.calls,
        )  # fmt: skip
        withheld: Decision | None = None
        calls = Calls(self.seam, judging.policy, judging.past, judging.conversation, self.loop)
        async with aclosing(gate):
            async for item in gate:
                decision = await self._unread(item, judging)
                if isinstance(item, Blocked) or (decision is not None and decision.withheld):
                    withheld = decision
                    break
                if decision is not None and decision.enforced == "redact":
                    answer.dropped()
                    continue
                for chunk in answer.render(item):
                    yield chunk
        if withheld is None:
            held = answer.held()
            withheld = await calls.judge(held) or await self._judge_rest(held, judging)
            for chunk in answer.settled(held):
                yield chunk
        if withheld is not None:
            yield answer.replacement(blocked_text(judging.policy, withheld))
        yield self._last(answer, judging, withheld, calls)

    async def _unread(self, item: Item, judging: _Judging) -> Decision | None:
        """The decision on `item`, unless the gate has let it pass already."""
        if isinstance(item, Blocked):
            return item.decision
        if isinstance(item, Opaque) and isinstance(item.payload, Unread) and item.payload.text:
            return await self._judge_text(item.payload.text, judging)
        return None

    async def _judge_rest(self, held: Held, judging: _Judging) -> Decision | None:
        if not held.rest:
            return None
        decision = await self._judge_text(held.rest, judging)
        held.rest_allowed = not decision.withheld and decision.enforced != "redact"
        return decision if decision.withheld else None

    async def _judge_text(self, text: str, judging: _Judging) -> Decision:
        check = Check("output", text, judging.agent, conversation=judging.conversation, calls=judging.past.calls)
        return await self.seam.checker.check(check, policy=judging.policy)

    def _refused(self, answer: Answer, judging: _Judging, blocked: Decision) -> list[ChatGenerationChunk]:
        text = blocked_text(judging.policy, blocked)
        return [answer.replacement(text), self._last(answer, judging, blocked)]

    def _last(
        self, answer: Answer, judging: _Judging, withheld: Decision | None, calls: Calls | None = None
    ) -> ChatGenerationChunk:
        marks, kept_back = (calls.marks, calls.kept_back) if calls is not None else ((), None)
        mark = self.seam.mark(
            judging.policy, judging.agent, withheld or kept_back, altered=answer.altered, calls=marks
        )  # fmt: skip
        return answer.final(mark, cut=withheld is not None)


def _holding(policy: Policy) -> Policy:
    """`policy` without ``pass`` mode, which shows text early: a whole answer gains nothing by that."""
    if policy.streaming.mode == "hold":
        return policy
    known = policy.hash  # computed before the copy is made, so that the copy is the same policy to everybody
    held = policy.model_copy(update={"streaming": policy.streaming.model_copy(update={"mode": "hold"})})
    held.__dict__["hash"] = known
    return held


async def _taken_apart(answer: Answer, generation: ChatGeneration) -> AsyncGenerator[Delta, None]:
    for delta in [*answer.push(as_chunk(generation)), *answer.flush()]:
        yield delta
