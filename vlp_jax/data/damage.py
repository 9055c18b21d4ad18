"""Damaged input as data: what was lost, where, and when there is too much of it to go on.

A web-scale run meets truncated pictures and torn shards every day. The file exists so that every
reader reports them in one shape (a reason and a place) and one rule decides when a run must stop.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from vlp_jax.core.errors import RunError

NOTED = frozenset({"lost_character"})  # told by `data check`, but used as it is
# sound, but training on captions (or classes) has to leave them out
INCOMPLETE = frozenset({"no_caption", "no_class"})
MIN_COUNT = 10  # so that one bad picture in a folder of fifty does not stop a run


class Damage(NamedTuple):
    """One loss: `reason` is a short word to count by, `where` names the shard (or file) and the
    key."""

    reason: str
    where: str


class DamagedSample(Exception):
    """A sample that cannot be used. `reason`: short word to count by; `where`: shard and key."""

    def __init__(self, reason: str, where: str = ""):
        super().__init__(reason, where)
        self.reason, self.where = reason, where

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


class DamageLog:
    """Counts each damaged place once, by reason, and stops the run above a budget.

    The limit is `budget * num_examples`, but not below min(10, a quarter of the examples), so that
    small folders survive a bad picture or two. A budget of 0 allows nothing.
    """

    def __init__(self, num_examples: int, budget: float, first: Iterable[Damage] = ()):
        floor = min(MIN_COUNT, num_examples // 4) if budget > 0 else 0
        self.budget, self.limit = budget, max(budget * num_examples, floor)
        self.num_examples = num_examples
        self.counts: Counter = Counter()
        self._seen: set[Damage] = set()
        self.last: Damage | None = None
        for damage in first:
            self.add(damage)

    def add(self, damage: Damage) -> None:
        """Counts `damage`, once however often it is met."""
        damage = Damage(*damage)
        if damage not in self._seen:
            self._seen.add(damage)
            self.counts[damage.reason] += 1
            self.last = damage

    @property
    def total(self) -> int:
        return len(self._seen)

    def check(self) -> None:
        """Raises RunError, naming shard and key of the last loss, when the count is above the
        budget."""
        if self.total > self.limit:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.counts.most_common())
            share = 1.01 * self.total / self.num_examples
            raise RunError(
                f"damaged data above data.damage_budget={self.budget:g}: {self.total} of "
                f"{self.num_examples} ({reasons}); last: {self.last.where}: {self.last.reason}; "
                f"--config.data.damage_budget={share:.2g} would let them go"
            )
