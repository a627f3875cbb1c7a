"""A refund that a person must approve: the agent stops, another process answers days later, and the agent goes on.

    python examples/approval.py                                 plays all parts, one after the other
    python examples/approval.py ask [--database FILE]           the agent runs until a person is asked
    python examples/approval.py answer approve|reject [--database FILE]

Runs offline, without a key or a GPU; all that the two processes share is a SQLite database.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from guardmw.policy import parse_policy
from guardmw.testing import ScriptedChatModel
from guardmw_langgraph import GuardMiddleware

POLICY = parse_policy(
    """
    id: refunds
    extends: [support]
    tools:
      rules:
        - {tool: issue_refund, args: {amount: {maximum: 100}}, action: allow, otherwise: ask}
    """
)
VERIFY = [{"name": "verify_identity", "args": {"code": "4711"}}]
REFUND = [{"name": "issue_refund", "args": {"order": "A-1042", "amount": 250}}]
THREAD: Any = {"configurable": {"thread_id": "lamp"}}


def verify_identity(code: str) -> str:
    """Check the code that was sent to the customer."""
    return "The customer is verified."


def issue_refund(order: str, amount: int) -> str:
    """Pay money back."""
    return f"{amount} euros of order {order} were paid back."


def agent(turns: list[Any], saver: AsyncSqliteSaver) -> Any:
    """The agent, the same in both processes but for the model, which says what comes next."""
    return create_agent(
        ScriptedChatModel(turns),
        [verify_identity, issue_refund],
        middleware=[GuardMiddleware(POLICY, guard="detectors")],
        checkpointer=saver,
        name="support",
    )


async def ask(database: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(database)) as saver:
        question = {"messages": [{"role": "user", "content": "My lamp came broken; my code is 4711."}]}
        state = await agent([VERIFY, REFUND], saver).ainvoke(question, THREAD)
    for request in state["__interrupt__"][0].value["action_requests"]:
        print(f"a person is asked: {request['name']}({request['args']})")
        print(request["description"].splitlines()[0])


async def answer(database: Path, decision: str) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(database)) as saver:
        resumed: Command[None] = Command(resume={"decisions": [{"type": decision}]})
        state = await agent(["I have done what I could."], saver).ainvoke(resumed, THREAD)
    results = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    print(f"the person said {decision}: {results[-1].text}")
    print(f"the agent: {state['messages'][-1].text}")


def play() -> None:
    """Each part in a process of its own, as they would be in life; both answers to the same question."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "checkpoints.db"
        run("ask", asked)
        for decision in ("approve", "reject"):
            run("answer", Path(shutil.copy(asked, asked.with_stem(decision))), decision)


def run(part: str, database: Path, *decision: str) -> None:
    command = [sys.executable, __file__, part, *decision, "--database", str(database)]
    subprocess.run(command, check=True)  # noqa: S603  # its own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["ask", "answer"])
    parser.add_argument("decision", nargs="?", choices=["approve", "reject"], default="approve")
    parser.add_argument("--database", type=Path, default=Path("checkpoints.db"))
    arguments = parser.parse_args()
    if arguments.part is None:
        play()
    else:
        part = ask(arguments.database) if arguments.part == "ask" else answer(arguments.database, arguments.decision)
        asyncio.run(part)


if __name__ == "__main__":
    main()
