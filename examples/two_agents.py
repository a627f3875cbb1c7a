"""Two agents in one graph, each under its own policy: what one may say the other may not."""

import asyncio

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from guardmw import load_policies
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware

policies = load_policies("support", "coding")  # matched by the agents' names
guard = FakeGuard()  # finds nothing: here the detectors of the two policies decide; leave it out for the embedded one

NOTE = "The maintainer is jane.doe@mail.example."


def agent_called(name: str) -> object:
    middleware = GuardMiddleware(policies, guard=guard, agent=name)
    return create_agent(ScriptedChatModel([NOTE]), middleware=[middleware], name=name)


graph = StateGraph(MessagesState)
for name in ("support", "coding"):
    graph.add_node(name, agent_called(name))
    graph.add_edge(START, name)
    graph.add_edge(name, END)
app = graph.compile()


async def main() -> None:
    state = await app.ainvoke({"messages": [{"role": "user", "content": "Who maintains this?"}]})
    for message in state["messages"]:
        if isinstance(message, AIMessage):
            print(f"{message.name}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main())
