"""Two agents in one graph, each under its own policy: what one may say the other may not."""

import asyncio

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from guardmw import load_policies
from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw_langgraph import GuardMiddleware

policies = load_policies("support", "coding")  # matched by the agents' names
guard = FakeGuard()  # finds nothing: here the detectors of the two policies decide; leave it out for the embedded one

NOTE = "The maintainer is jane.doe@mail.example."


graph = StateGraph(MessagesState)
for name in ("support", "coding"):
    agent = create_agent(ScriptedChatModel([NOTE]), middleware=[GuardMiddleware(policies, guard=guard)], name=name)
    graph.add_node(name, agent)
    graph.add_edge(START, name)
    graph.add_edge(name, END)
app = graph.compile()


async def main() -> None:
    state = await app.ainvoke({"messages": [HumanMessage("Who maintains this?")]})
    for message in state["messages"]:
        if isinstance(message, AIMessage):
            print(f"{message.name}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main())
