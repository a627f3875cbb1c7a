"""From a model's logit to a probability that means something."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Calibration"]


class Calibration(BaseModel):
    """Platt scaling with two numbers, kept beside the weights: ``sigmoid((logit + bias) / temperature)``.

    `temperature` (above 0) widens or narrows, `bias` (logits) moves the point that becomes probability 0.5.
    Source: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(1.0, gt=0)
    bias: float = 0.0

    def probability(self, logit: float) -> float:
        """The calibrated probability of `logit`, in [0, 1]; rises with it. Raises ValueError when it isn't finite."""
        if not math.isfinite(logit):
            raise ValueError(f"a logit must be finite, not {logit}")
        scaled = (logit + self.bias) / self.temperature
        # Both forms are the same number; each is used where its exponential can't overflow.
        return 1 / (1 + math.exp(-scaled)) if scaled >= 0 else math.exp(scaled) / (1 + math.exp(scaled))

    def logit(self, probability: float) -> float:
        """The model's logit that `probability`, in (0, 1), stands for: the inverse of `probability()`."""
        return math.log(probability / (1 - probability)) * self.temperature - self.bias
