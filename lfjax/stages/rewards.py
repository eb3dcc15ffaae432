"""Where the rewards of a policy gradient come from: models with a scalar head, judges, rules.

A source scores records; a score becomes a value, and values, times their weights, a reward.   n
responses, k responses to a prompt, g prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from lfjax.data.records import Feedback, Record
from lfjax.errors import UserError
from lfjax.judges import apply, get_judge, questions_of
from lfjax.judges.rules import load_rule
from lfjax.stages.answers import asker_inputs, collected, open_asker
from lfjax.stages.artifacts import Stage
from lfjax.stages.rollouts import Rollout, turned
from lfjax.stages.scoring import Scorer, load_scorer

KINDS = ("model", "rule", "judge")


@dataclass(frozen=True)
class Source:
    """One source of rewards.

    Attributes:
      values: (records) -> their values, NaN where one is missing.
      bands: (value that separates worse from similar, similar from better), of a gap reward.
      compares: reads the response that is improved as well.
    """

    name: str
    weight: float
    values: Callable[[Sequence[Record]], Float[np.ndarray, "n"]]
    bands: tuple[float, float] | None = None
    compares: bool = False


def reward_inputs(blocks: ConfigDict | Mapping[str, ConfigDict]) -> dict[str, str]:
    """What sources, settings by name, read, by role: `reward/NAME`.

    Raises: UserError for a source that is not exactly one of `KINDS`.
    """
    out = {}
    for name, block in blocks.items():
        kinds = [kind for kind in KINDS if block[kind]]
        if len(kinds) != 1:
            raise UserError(
                f"reward '{name}': {' and '.join(kinds) or 'nothing'} is set; expected one of "
                f"{', '.join(KINDS)}."
            )
        if block.model:
            out[f"reward/{name}"] = block.model
        elif block.judge:
            if "endpoint" not in block:
                raise UserError(
                    f"reward '{name}': judge={block.judge} came too late to be told who answers. "
                    "Name the judge where the recipe is made, as monitor=dict(judge='score', "
                    "endpoint=dict(url=…, model=…)); of configs/pit.py the variants that end in "
                    "_monitored do."
                )
            out |= {f"reward/{name}": path for path in asker_inputs(block).values()}
    return out


def monitors(config) -> dict[str, ConfigDict]:
    """The settings of who is not learned from, by name, where there is anybody."""
    return {n: block for n, block in config.monitor.items() if any(block[k] for k in KINDS)}


def open_source(stage: Stage, name: str, block, *, policy: str, improves: bool) -> Source:
    """A source with its model read onto the mesh.

    Args:
      policy: model directory; a reward model has to have its tokenizer.
      improves: whether there are responses to compare with.

    Raises: UserError for settings that make no sense.
    """
    spread = 1.0 if block.spread is None else block.spread
    if spread <= 0:
        raise UserError(f"reward '{name}': spread={spread}; expected a positive number.")
    if block.model:
        path = stage.inputs[f"reward/{name}"]
        scorer = load_scorer(path, stage.mesh, policy=policy, dtype=block.dtype)
        if scorer.meaning["max_tokens"] < stage.config.max_tokens:
            print(
                f"  note: reward '{name}' was trained on texts of at most "
                f"{scorer.meaning['max_tokens']} tokens; longer ones lose the start of their "
                "prompt, and where that is not enough have no reward."
            )
        return _by_model(scorer, name, block, improves)
    score = _by_rule(block) if block.rule else _by_judge(stage, name, block)
    offset = block.offset or 0.0

    def values(records):
        return (np.array([score_of(f) for f in score(records)]) - offset) / spread

    return Source(name, block.weight, values)


def _by_model(scorer: Scorer, name: str, block, improves: bool) -> Source:
    """Scores are centred and scaled by what was held out when the model was trained."""
    if scorer.compares and not improves:
        raise UserError(
            f"reward '{name}': a {scorer.kind} reward compares a response with the one that it "
            "improves; set reference."
        )
    offset = block.offset or 0.0
    spread = scorer.spread if block.spread is None else block.spread
    if not spread > 0:
        raise UserError(
            f"reward '{name}': its scores of held-out records do not differ (spread {spread}); "
            "the model has learned nothing, or set rewards.NAME.spread."
        )

    def scaled(score):
        return (score - offset) / spread

    bands = tuple(map(scaled, scorer.bands)) if scorer.compares else None
    return Source(
        name, block.weight, lambda rs: scaled(scorer.where_it_fits(rs)), bands, scorer.compares
    )


def _by_rule(block) -> Callable[[Sequence[Record]], list[Feedback | None]]:
    rule = load_rule(block.rule, block.rule_options.to_dict())
    return lambda records: [rule(record) for record in records]


def _by_judge(stage: Stage, name: str, block):
    """Answers go through the workdir's store: what a step was judged, it is not judged again."""
    how, role = get_judge(block.judge, block.question), f"reward/{name}"
    if block.judge == "preference":
        raise UserError(f"reward '{name}': the judge 'preference' compares candidates; take score.")
    own = replace(stage, config=block)
    if role in stage.inputs:
        identity = {"inputs": {"init": stage.identity["inputs"][role]}}
        own = replace(own, inputs={"init": stage.inputs[role]}, identity=identity)
    asker = open_asker(own, stage.config.data.template)

    def score(records):
        asked = [questions_of(record, how) for record in records]
        answers = iter(collected(own, [q for each in asked for q in each], asker).answers)
        judged = [
            apply(record, how, [next(answers) for _ in each], asker.name)
            for record, each in zip(records, asked)
        ]
        return [None if reason else record.feedback[-1] for record, reason in judged]

    return score


def score_of(said: Feedback | None) -> float:
    """A judgment as a number: its score, on the scale from 0 to 1 where it has a scale; without a
    score 1 for praise, 0 for blame, ½ for both. NaN where there is no judgment.

    Raises: UserError for a score that is not finite.
    """
    if said is None:
        return float("nan")
    if said.score is None:
        return {"positive": 1.0, "mixed": 0.5, "negative": 0.0}[said.polarity]
    if not np.isfinite(said.score):
        raise UserError(f"{said.author} gave the score {said.score}; expected a finite number.")
    if said.scale is None:
        return said.score
    low, high = said.scale
    return (said.score - low) / (high - low)


def filled(values: Float[np.ndarray, "g k"]) -> Float[np.ndarray, "g k"]:
    """The values with the mean of the prompt's others where one is missing, so that its own
    advantage is 0; and 0 where all of a prompt are."""
    known = ~np.isnan(values)
    mean = np.where(known, values, 0.0).sum(-1, keepdims=True) / np.maximum(
        known.sum(-1, keepdims=True), 1
    )
    return np.where(known, values, mean)


def values_of(
    source: Source, rollouts: Sequence[Rollout], samples: int, *, backwards: bool = False
) -> Float[np.ndarray, "g k"]:
    """The values of a source, NaN where one is missing. An empty response, which nobody can read,
    gets 1 less than the lowest of the others (or than 0), so that saying nothing never pays; and 1
    more than the highest of a source with a negative weight.

    Args:
      backwards: of a source that compares, the values of what is improved over the responses.
    """
    sign = -1.0 if source.weight < 0 else 1.0
    shown = [r for r in rollouts if not r.empty]
    out = np.zeros(len(rollouts))
    if shown:
        records = [r.improvement() if source.compares else r.answer() for r in shown]
        values = source.values([turned(r) for r in records] if backwards else records)
        known = values[~np.isnan(values)]
        out[:] = sign * (sign * known).min() if known.size else 0.0
        out[[not r.empty for r in rollouts]] = values
    return (out - sign * np.array([r.empty for r in rollouts])).reshape(-1, samples)


def total(
    sources: Sequence[Source],
    values: Mapping[str, Float[np.ndarray, "g k"]],
    rollouts: Sequence[Rollout],
    missing_eos_penalty: float,
) -> Float[np.ndarray, "g k"]:
    """The weighted sum, less the penalty where a response was cut off."""
    out = sum(source.weight * filled(values[source.name]) for source in sources)
    cut = np.array([r.finish == "length" for r in rollouts]).reshape(out.shape)
    return out - missing_eos_penalty * cut
