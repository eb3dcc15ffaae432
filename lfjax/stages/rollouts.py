"""What a policy-gradient stage asks and what it is answered: tasks, their order, rollouts, and the
files that keep them until they have been learned from.   g tasks, k rollouts of each."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lfjax import processes
from lfjax.data.records import Record, RecordError
from lfjax.data.templates import encode_prompt
from lfjax.data.tokenize import Tokenizer
from lfjax.data.views import after_reference, best_and_worst, need_response
from lfjax.errors import UserError
from lfjax.generation.engine import Engine
from lfjax.generation.rules import Sampling
from lfjax.generation.scheduler import Request, generate
from lfjax.training.logs import write_atomic

REFERENCES = ("rejected", "chosen", "response")


@dataclass(frozen=True)
class Task:
    """A prompt to answer, or a response to improve.

    Attributes:
      reference: the response that is improved; None where the prompt is answered.
      origin: which one it is, of `REFERENCES`.
      ids: what the policy reads.
    """

    record: Record
    reference: str | None
    origin: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """One response that the policy drew.

    Attributes:
      ids: its tokens, with the one that ended it.
      logps: of the sampler, at temperature 1.
      finish: `stop`, or `length` where it was cut.
    """

    task: Task
    ids: list[int]
    logps: list[float]
    text: str
    finish: str

    @property
    def empty(self) -> bool:
        return not self.text.strip()

    def answer(self) -> Record:
        """As a response to its prompt; `meta.reference` is what it improves."""
        task, meta = self.task, dict(self.task.record.meta)
        if task.reference is not None:
            meta["reference"] = task.reference
        bare = replace(task.record, refinement=None, feedback=(), candidates=())
        return replace(bare, response=self.text, meta=meta)

    def improvement(self) -> Record:
        """As the refinement of the response that it improves."""
        task = self.task
        return replace(
            task.record, response=task.reference, refinement=self.text, feedback=(), candidates=()
        )


def turned(record: Record) -> Record:
    """An improvement the other way round."""
    return replace(record, response=record.refinement, refinement=record.response)


# --- tasks ------------------------------------------------------------------------------------


def make_tasks(
    records: Sequence[Record], tokenizer: Tokenizer, template: str, config
) -> tuple[list[Task], Counter, list[str]]:
    """(tasks, what was left out and why, messages on malformed records).

    Without references, every different prompt once. With them, every record once for each of
    `config.reference`: `rejected` and `chosen` of its pair, or its `response`.

    Raises: UserError for an unknown reference; RecordError for a record without it, unless
    `data.on_error` is `skip`.
    """
    c, counts, skipped = config, Counter(), []
    for name in c.reference:
        if name not in REFERENCES:
            raise UserError(f"reference: '{name}'; expected some of {', '.join(REFERENCES)}.")
    if not c.reference:
        records = list({r.prompt: r for r in reversed(records)}.values())[::-1]
    tasks = []
    for record in records:
        try:
            found = _references(record, c.reference) if c.reference else {"": None}
        except RecordError as error:
            if c.data.on_error == "stop":
                raise
            skipped.append(str(error))
            continue
        counts["without a preference"] += not found
        for origin, reference in found.items():
            messages = record.prompt if reference is None else after_reference(record, reference)
            ids = tuple(encode_prompt(tokenizer, template, messages))
            if reference is not None and not reference.strip():
                counts["references empty"] += 1
            elif reference and len(tokenizer.encode(reference)) > c.max_reference_tokens:
                counts["references too long"] += 1
            elif len(ids) + c.max_new_tokens > c.max_tokens:
                counts["prompts too long"] += 1
            else:
                tasks.append(Task(record, reference, origin, ids))
    return tasks, counts, skipped


def _references(record: Record, names: Sequence[str]) -> dict[str, str]:
    found = {}
    if "response" in names:
        found["response"] = need_response(record)
    if "chosen" in names or "rejected" in names:
        found |= dict(zip(("chosen", "rejected"), best_and_worst(record)))
    return {name: found[name] for name in names if name in found}


@dataclass(frozen=True)
class Draw:
    """Which tasks a step takes: `prompts` of them, epoch after epoch, each in an order of its own.
    Step n is random access."""

    tasks: list[Task]
    prompts: int
    seed: int

    def step(self, step: int) -> list[Task]:
        """The tasks of a step (from 1)."""
        n = len(self.tasks)
        places = range((step - 1) * self.prompts, step * self.prompts)
        return [self.tasks[_order(self.seed, p // n, n)[p % n]] for p in places]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


# --- rollouts ---------------------------------------------------------------------------------


def sample(
    engine: Engine,
    params: Any,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    samples: int,
    seed: tuple[int, ...],
    temperature: float,
    max_new_tokens: int,
) -> list[Rollout]:
    """So many rollouts of each task, one task after the other. The draws of each follow from the
    seed, the task's place and the sample's number."""
    how = dict(sampling=Sampling(temperature=temperature), stop_ids=(tokenizer.eos,))
    requests = [
        Request(task.ids, max_new_tokens, seed=(*seed, i, j), **how)
        for i, task in enumerate(tasks)
        for j in range(samples)
    ]
    out: list[Any] = [None] * len(requests)
    for index, done in generate(engine, params, requests, tokenizer):
        task = tasks[index // samples]
        out[index] = Rollout(task, done.ids, done.logps, done.text, done.finish)
    return out


class Kept:
    """The rollouts of every step as Records, in part files: written before the step learns from
    them, so that a run that was killed goes on with the same ones."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder / "rollouts", model

    def path(self, step: int) -> Path:
        return self.folder / f"part-0-{step:06d}.jsonl"

    def write(self, step: int, rollouts: Sequence[Rollout], rewards=None) -> None:
        """Once as they were drawn, and once more with their rewards, by source."""
        lines, each = [], list(zip(*(values.flat for values in (rewards or {}).values())))
        for i, rollout in enumerate(rollouts):
            task = rollout.task
            record = rollout.answer() if task.reference is None else rollout.improvement()
            drawn = {"ids": rollout.ids, "logps": rollout.logps, "text": rollout.text}
            about = {"prompt_id": record.id, "step": step, "finish": rollout.finish}
            if task.origin:
                about["origin"] = task.origin
            if rewards:
                about["rewards"] = {
                    name: float(v) for name, v in zip(rewards, each[i]) if not np.isnan(v)
                }
            meta = {**record.meta, **about, "drawn": drawn}
            record = replace(record, id=f"{record.id}/{step}/{i}", model=self.model, meta=meta)
            if rollout.empty:
                empty = {"response" if task.reference is None else "refinement": None}
                record = replace(record, **empty)
            lines.append(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
        write_atomic(self.path(step), "".join(lines))

    def read(self, step: int, tasks: Sequence[Task]) -> list[Rollout] | None:
        """Those that an earlier start drew for the same tasks; None where there are none."""
        if not processes.decide(self.path(step).is_file):
            return None
        metas = [record["meta"] for record in _objects(self.path(step))]
        samples = len(metas) // len(tasks)
        out = []
        for i, meta in enumerate(metas):
            drawn, task = meta["drawn"], tasks[i // samples]
            if meta["prompt_id"] != task.record.id:
                raise UserError(
                    f"{self.path(step)}: holds an answer to '{meta['prompt_id']}' where the step "
                    f"asks '{task.record.id}'; the file is not of this run. Remove it."
                )
            out.append(Rollout(task, drawn["ids"], drawn["logps"], drawn["text"], meta["finish"]))
        return out

    def merge(self, target: Path, steps: int) -> None:
        """All parts in one file of Records, without tokens and log-probabilities."""

        def lines() -> Iterator[str]:
            for step in range(1, steps + 1):
                for record in _objects(self.path(step)):
                    del record["meta"]["drawn"]
                    yield json.dumps(record, ensure_ascii=False) + "\n"

        if processes.index() == 0:
            write_atomic(target, "".join(lines()))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())
