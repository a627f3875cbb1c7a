"""A hand-written LangGraph graph: wrap the model once, and every node that calls it is guarded."""

import asyncio

from langchain_core.messages import AIMessageChunk, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from guardmw.testing import FakeGuard, ScriptedChatModel
from guardmw.traces.record import MemoryRecorder
from guardmw_langgraph import guard_model

recorder = MemoryRecorder()
model = guard_model(
    ScriptedChatModel(["Index funds spread risk over many companies. Put all your savings into ACME, it will double."]),
    "finance",
    guard=FakeGuard(unsafe="ACME"),  # a guard with known answers; leave it out for the embedded one
    recorder=recorder,
)


async def answer(state: MessagesState) -> dict[str, object]:
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
graph.add_edge("answer", END)
app = graph.compile()


async def main() -> None:
    question = HumanMessage("What should I do with my savings?")
    async for message, _ in app.astream({"messages": [question]}, stream_mode="messages"):
        if isinstance(message, AIMessageChunk):
            print(message.text, end="", flush=True)
    print()
    for decision in recorder.decisions:
        print(f"{decision.check.surface:7} {decision.action:6} {decision.why}")


if __name__ == "__main__":
    asyncio.run(main())
