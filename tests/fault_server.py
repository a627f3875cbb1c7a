"""A real HTTP server on loopback that speaks like vLLM, and fails as told."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]
Answer = Callable[[str, Json], Json]
"""From the path and the body of a request to the body of its answer."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer: another `status` (with `headers` and `body`), a `delay_s` before it, an answer
    cut off in the middle (`half`), nothing at all (`hang`), or the connection dropped (`drop`)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay_s: float = 0.0
    half: bool = False
    hang: bool = False
    drop: bool = False

    @classmethod
    def error(cls, status: int, message: str, **headers: str) -> Fault:
        said = json.dumps({"error": {"message": message, "type": "error", "code": status}}).encode()
        return cls(status, {name.replace("_", "-"): value for name, value in headers.items()}, said)


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json


class FaultServer:
    """Answers with `answer`. The next requests but those for models meet the `faults` in order; then `always` holds."""

    def __init__(self, answer: Answer, *, models: tuple[str, ...] = ("tiny",)) -> None:
        self.answer, self.models = answer, models
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.seen: list[Seen] = []
        self.in_flight = self.most_in_flight = 0
        self.reached = asyncio.Event()
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def asked(self) -> list[Seen]:
        """Requests for a judgement."""
        return [seen for seen in self.seen if seen.path.startswith(("/v1/chat", "/v1/completions", "/classify"))]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        seen = await _request(reader)
        self.seen.append(seen)
        self.reached.set()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._respond(seen, writer)
        finally:
            self.in_flight -= 1

    async def _respond(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        fault = Fault()
        if seen.path not in ("/v1/models", "/tokenize"):
            fault = self.faults.popleft() if self.faults else self.always or Fault()
        await asyncio.sleep(fault.delay_s)
        if fault.hang:
            await asyncio.Event().wait()
        if fault.drop:
            return False
        status, body = fault.status, fault.body
        if body is None:
            status, body = self._body(seen, status)
        writer.write(_head(status, fault.headers, len(body)) + (body[: len(body) // 2] if fault.half else body))
        await writer.drain()
        return not fault.half

    def _body(self, seen: Seen, status: int) -> tuple[int, bytes]:
        if seen.path == "/v1/models":
            return 200, json.dumps({"data": [{"id": model, "max_model_len": 4096} for model in self.models]}).encode()
        if seen.body.get("model") not in (*self.models, None):
            missing = {"error": {"message": f"The model `{seen.body['model']}` does not exist.", "code": 404}}
            return 404, json.dumps(missing).encode()
        answer = self.answer(seen.path, seen.body)
        return int(answer.pop("_status", status)), json.dumps(answer).encode()


async def _request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, json.loads(content) if content else {})


def _head(status: int, headers: Mapping[str, str], length: int) -> bytes:
    lines = {"content-type": "application/json", **headers, "content-length": str(length)}
    return "\r\n".join(
        [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
    ).encode()


# A guard model played by a function.

Alternatives = Mapping[str, float]
"""Tokens with their probabilities."""


def chat_answer(
    *positions: Alternatives,
    text: str | None = None,
    finish: str = "stop",
    prompt_tokens: int = 100,
    cached: int = 96,
) -> Json:
    """An answer of ``/v1/chat/completions``: the likeliest token of each position was taken."""
    taken = [max(position, key=lambda token: position[token]) for position in positions]
    content = [
        {"token": token, "logprob": _log(position[token]), "top_logprobs": _listed(position)}
        for token, position in zip(taken, positions, strict=True)
    ]
    written = "".join(taken) if text is None else text
    choice = {
        "message": {"role": "assistant", "content": written},
        "logprobs": {"content": content},
        "finish_reason": finish,
    }
    return {
        "id": "chatcmpl-1",
        "model": "tiny",
        "choices": [choice],
        "usage": _usage(len(taken), prompt_tokens, cached),
    }


def completion_answer(*positions: Alternatives, finish: str = "stop") -> Json:
    """An answer of ``/v1/completions``."""
    taken = [max(position, key=lambda token: position[token]) for position in positions]
    tops = [{token: _log(probability) for token, probability in position.items()} for position in positions]
    choice = {"text": "".join(taken), "logprobs": {"tokens": taken, "top_logprobs": tops}, "finish_reason": finish}
    return {"id": "cmpl-1", "model": "tiny", "choices": [choice], "usage": _usage(len(taken), 100, 0)}


def _listed(position: Alternatives) -> list[Json]:
    return [{"token": token, "logprob": _log(probability)} for token, probability in position.items()]


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -9999.0


def _usage(completion: int, prompt: int, cached: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def tokens_of(body: Json) -> int:
    """The length of a prompt in made-up tokens of about four characters."""
    text = body.get("prompt") or "".join(message["content"] for message in body.get("messages", ()))
    return sum(math.ceil(len(word) / 4) for word in re.findall(r"\S+", text))


class GuardModel:
    """Follows `guardmw.guard.prompt`: unsafe with `probability` of the text under review, then in `category`.

    Answers ``/tokenize``. With `context` set, longer prompts are refused as vLLM refuses them.
    """

    def __init__(
        self,
        probability: Callable[[str], float] | float = 0.01,
        *,
        category: Callable[[str], str] | str = "",
        context: int | None = None,
        reasons: str = "it is so",
    ) -> None:
        self.probability, self.category, self.context, self.reasons = probability, category, context, reasons

    def __call__(self, path: str, body: Json) -> Json:
        if path == "/tokenize":
            return {"count": tokens_of(body), "max_model_len": self.context}
        if self.context is not None and tokens_of(body) + body["max_tokens"] > self.context:
            said = (
                f"This model's maximum context length is {self.context} tokens. However, you requested 1 output tokens "
                f"and your prompt contains {tokens_of(body)} input tokens. Please reduce the length."
            )
            return {"_status": 400, "error": {"message": said, "type": "BadRequestError", "code": 400}}
        return self._judge(body)

    def _judge(self, body: Json) -> Json:
        messages = body["messages"]
        begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
        text = reviewed(messages[-1 if begun is None else -2]["content"])
        unsafe = self.probability(text) if callable(self.probability) else self.probability
        category = self.category(text) if callable(self.category) else self.category
        if begun is None:
            return self._reasoned(unsafe, category)
        if begun.endswith("\\category{"):
            listed = body["structured_outputs"]["choice"]
            return chat_answer({each: 0.9 if each == category else 0.1 / len(listed) for each in listed})
        return chat_answer({"safe": 1 - unsafe, "unsafe": unsafe}, finish="length")

    def _reasoned(self, unsafe: float, category: str) -> Json:
        label = {"safe": 1 - unsafe, "unsafe": unsafe}
        named = category if unsafe > 0.5 else "not applicable"
        sure = [{token: 1.0} for token in ("<think>", self.reasons, "</think>", "\\safety", "{")]
        return chat_answer(*sure, label, {"}\\category{": 1.0}, {named: 1.0}, {"}": 1.0})


def reviewed(asked: str) -> str:
    """The text under review in a user message of ours."""
    found = re.search(r"<<<(\w+) review \w+>>>\n(.*)\n<<<\1 end>>>\n", asked, re.DOTALL)
    assert found is not None, f"no text under review in {asked[-200:]!r}"
    return found[2]
