"""A guarded agent in one file: what it streams was judged before you see it. Runs offline, without a key or a GPU."""

import asyncio

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage

from guardmw.testing import ScriptedChatModel
from guardmw_langgraph import GuardMiddleware

# Stands in for your model so that this runs offline; any LangChain chat model or a "provider:model" string works.
model = ScriptedChatModel(
    [
        [{"name": "look_up_order", "args": {"order": "A-1042"}}],
        "Your parcel left our warehouse this morning. The order was paid with 4111 1111 1111 1111.",
    ],
    delay_s=0.02,
)


def look_up_order(order: str) -> str:
    """Look up an order by its number."""
    return f"Order {order}: shipped today."


agent = create_agent(model, [look_up_order], middleware=[GuardMiddleware("support")])


async def main() -> None:
    question = HumanMessage("Where is my order A-1042?")
    async for message, _ in agent.astream({"messages": [question]}, stream_mode="messages"):
        if isinstance(message, AIMessageChunk):
            print(message.text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
