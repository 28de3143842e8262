"""LearnPlan: what every learning from a few trainings has, whatever its networks are for.

The `learn:` part of an experiment is its task's own Record, which adds what is measured of a trained candidate
(zennas/tasks/NAME/learn_plan.py).
"""

from typing import Annotated

import pydantic

from zennas.records import Record
from zennas.train_plan import Count, NotNegative

LEAST_TRAINED = 4  # fewer, and there is a line through any of them


class LearnPlan(Record):
    """Candidates of equal latency that are trained by a short recipe, and from which the worth of each gene is
    learned."""

    # Different candidates. Of 44 networks of equal latency the order of the others came out with a tau of 0.52, 0.59
    # and 0.63 from 8, 12 and 16 of them (experiments/equal-latency).
    trainings: Annotated[int, pydantic.Field(ge=LEAST_TRAINED, lt=2**31)] = 16
    # Chosen before any is trained: some fill the space, the others are the prior's. The rest are chosen one by one,
    # where the model says that most is to be gained.
    first: Annotated[int, pydantic.Field(ge=LEAST_TRAINED, lt=2**31)] = 12
    # Of the first: those that the prior S puts first. Half, as experiments/learned (1. Tables) was frozen with; there
    # it named better networks than random choice did. Other shares were measured with another way of filling alone.
    prior_share: Annotated[float, pydantic.Field(ge=0, le=0.75)] = 0.5
    # So many of the first are trained with a second seed as well: how much of the spread is the candidates' own? 0: it
    # is not asked.
    twice: Annotated[int, pydantic.Field(ge=0)] = 2
    # Of the short recipe. On 9,021 images an order of 8 epochs has a tau of 0.27 with that of 24, and within a schedule
    # the order holds after two thirds of it (experiments/learned, 2. Length): the longest that sixteen can afford.
    epochs: Count = 24
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0  # of choices and trainings, which differ in nothing else
    pool: Count = 32  # candidates measured whole, from which those that are trained are chosen
    # Of the pool's middle latency, to either side: all within 5 % of one another, so that none wins by being slower.
    near_pct: Annotated[float, pydantic.Field(gt=0, lt=50)] = 2.5
    # So far the slowest stays under the budget: a second measurement may come out higher than the first.
    below_pct: Annotated[NotNegative, pydantic.Field(lt=50)] = 1.0

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.first > self.trainings:
            raise ValueError(f"first {self.first} must not exceed trainings {self.trainings}, of which they are")
        if self.twice > self.first:
            raise ValueError(f"twice {self.twice} must not exceed first {self.first}, of which they are")
        if self.pool < self.trainings:
            raise ValueError(f"pool {self.pool} must be at least trainings {self.trainings}, which are chosen from it")
        return self

    @property
    def num_by_prior(self) -> int:
        """How many of the first are the prior's."""
        return int(self.first * self.prior_share)

    def middle_ms(self, budget_ms: float) -> float:
        """The latency about which the pool lies, so that its slowest still keeps the budget.

        >>> LearnPlan().middle_ms(100.0)
        96.5
        """
        return budget_ms * (1 - (self.near_pct + self.below_pct) / 100)
