"""guardmw for LangGraph and LangChain agents."""
