"""A training run that goes wrong says so while it runs."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

Means = Mapping[str, float]
STEPS = 10  # whose means are compared


class Alarms:
    """Compares the latest steps with the first ones, and prints what is wrong when it begins.

    Attributes:
      rung: the step of the first alarm; 0 for none.
    """

    def __init__(self, alarm: Callable[[Means, Means], str] | None, log: Path):
        """
        Args:
          alarm: (means over the first steps, over the latest) -> what is wrong, or nothing.
          log: `metrics.jsonl`; the first steps of a run that continues are read from it.
        """
        self.alarm, self.ringing = alarm, False
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        rows = [json.loads(line) for line in lines]
        self.first = rows[:STEPS]
        self.latest = deque(rows[-STEPS:], maxlen=STEPS)
        self.rung = next((r["step"] for r in rows if r.get("alarm")), 0)

    def __call__(self, step: int, values: Mapping[str, float]) -> bool:
        """Take a step's metrics in; whether something is wrong."""
        if self.alarm is None:
            return False
        if len(self.first) < STEPS:
            self.first.append(values)
        self.latest.append(values)
        found = ""
        if len(self.latest) == STEPS:
            found = self.alarm(_means(self.first), _means(self.latest))
        if found and not self.ringing:
            print(f"\n  ALARM at step {step}: {found}", flush=True)
        self.ringing = bool(found)
        self.rung = self.rung or (step if found else 0)
        return self.ringing


def _means(rows) -> dict[str, float]:
    names = set.intersection(*(set(row) for row in rows))
    return {n: sum(row[n] for row in rows) / len(rows) for n in names}
