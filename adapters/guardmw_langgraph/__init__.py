"""guardmw for LangChain agents and LangGraph graphs."""

from __future__ import annotations

from guardmw_langgraph.middleware import GuardMiddleware
from guardmw_langgraph.model import GuardedChatModel, guard_model
from guardmw_langgraph.tools import guard_tools

__all__ = ["GuardMiddleware", "GuardedChatModel", "guard_model", "guard_tools"]
