"""Tools that note what ran, and agents round them."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from guardmw.policy import parse_policy
from guardmw.policy.schema import Policy
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder
from guardmw_langgraph import GuardMiddleware

SHOP = r"""
id: shop
categories:
  - {id: forbidden, title: Forbidden, unsafe_when: The text says the magic word., safe_when: It says other words.,
     surfaces: [tool_call]}
tools:
  default: check
  rules:
    - {tool: issue_refund, action: ask}
    - {tool: send_email, args: {to: {pattern: '@shop\.example$'}}}
  sequences:
    - {name: no-exfiltration, after: read_customer, never: http_post}
    - {name: verify-first, before: close_account, require: verify}
"""

THREAD: Any = {"configurable": {"thread_id": "1"}}


class Toolbox:
    """The tools of an agent, and the calls that really ran: their names and first arguments."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, Any]] = []
        self.fails: set[str] = set()

    def tools(self) -> list[Any]:
        return [self.read_customer, self.http_post, self.issue_refund, self.send_email, self.verify, self.close_account]

    def _note(self, name: str, value: Any) -> str:
        self.ran.append((name, value))
        if name in self.fails:
            raise ValueError(f"{name} failed")
        return f"{name} {value}"

    async def read_customer(self, customer: str) -> str:
        """Reads a customer."""
        return self._note("read_customer", customer) + ": Jane Doe of Main Street 17"

    async def http_post(self, url: str, body: str = "") -> str:
        """Posts."""
        return self._note("http_post", url)

    async def issue_refund(self, amount: int, note: str = "") -> str:
        """Refunds."""
        return self._note("issue_refund", amount)

    async def send_email(self, to: str, text: str = "") -> str:
        """Mails."""
        return self._note("send_email", to)

    async def verify(self, who: str) -> str:
        """Verifies."""
        return self._note("verify", who)

    async def close_account(self, who: str) -> str:
        """Closes."""
        return self._note("close_account", who)


def call(name: str, *, id: str | None = None, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, **({"id": id} if id else {})}


class Shop:
    """A guarded agent with a scripted model, a toolbox, a recorder and a checkpointer."""

    def __init__(
        self,
        *turns: Any,
        policy: Policy | str = SHOP,
        guard: FakeGuard | None = None,
        saver: Any = None,
        middleware: GuardMiddleware | None = None,
        box: Toolbox | None = None,
    ) -> None:
        self.model = ScriptedChatModel([*turns, "Done."])
        self.box, self.recorder = box or Toolbox(), MemoryRecorder()
        self.policy = parse_policy(policy) if isinstance(policy, str) else policy
        self.middleware = middleware or GuardMiddleware(
            self.policy, guard=guard or FakeGuard("XYZZY"), recorder=self.recorder
        )
        self.saver = InMemorySaver() if saver is None else saver or None
        self.agent: Any = create_agent(
            self.model, self.box.tools(), middleware=[self.middleware], checkpointer=self.saver
        )

    async def says(self, text: str = "Hello") -> dict[str, Any]:
        """The state after the user said `text`."""
        return dict(await self.agent.ainvoke({"messages": [("user", text)]}, THREAD))

    async def decide(self, *decisions: dict[str, Any]) -> dict[str, Any]:
        """The state after a person gave `decisions`."""
        return dict(await self.agent.ainvoke(Command(resume={"decisions": list(decisions)}), THREAD))


def asked(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that a person is asked about: name and args."""
    interrupts = state.get("__interrupt__", ())
    return [{"name": one["name"], "args": one["args"]} for each in interrupts for one in each.value["action_requests"]]


def results(state: dict[str, Any]) -> list[ToolMessage]:
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def calls(state: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every call in the state."""
    messages = [message for message in state["messages"] if isinstance(message, AIMessage)]
    return [(one["name"], one["args"]) for message in messages for one in message.tool_calls]


APPROVE: dict[str, Any] = {"type": "approve"}


def edit(name: str, **args: Any) -> dict[str, Any]:
    return {"type": "edit", "edited_action": {"name": name, "args": args}}
