"""The parts of `agent_attacks.py`: tasks, the sources they are made from, the agent that obeys, and the figures."""
