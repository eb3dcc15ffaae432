"""What stages do that let a model judge itself: refine its answers by its own feedback, and know
which model said what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lfjax.data.critiques import OVERALL_SCORE, SCALE
from lfjax.data.filters import EXPECTED
from lfjax.data.load import told
from lfjax.data.records import Record
from lfjax.data.self_refine import begun
from lfjax.data.templates import render_prompt
from lfjax.data.tokenize import encode_pieces
from lfjax.data.views import need_response
from lfjax.errors import UserError
from lfjax.generation.likelihood import Likelihood
from lfjax.generation.speaker import Speaker
from lfjax.judges import NOT_JUDGED, apply, get_judge, questions_of
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.sharding import BATCH, axis_size
from lfjax.stages.answers import collected, cost_of, local_asker
from lfjax.stages.artifacts import Stage

SELF, SELF_SCORE = "self", "self_score"  # the judges
WEIGHTS = "refined_by_weights"  # in a record's meta: hash of the model that refined its response


def self_refined(
    stage: Stage, speaker: Speaker, records: Sequence[Record]
) -> tuple[list[Record], dict[str, Any], dict[str, Any]]:
    """The responses with the model's own feedback and refinement, decoded as the responses were (Hu
    et al. 2024, section 3.3); headline numbers; cost.

    Where the model's words cannot be read, the first response stays the answer: the record has no
    refinement, and says why.
    """
    c = stage.config
    how = get_judge(SELF, leave_out=c.leave_out)
    limit = c.refine_tokens or c.max_new_tokens
    asker = local_asker(stage, speaker, max_new_tokens=limit, stop=())
    got = collected(stage, [q for r in records for q in questions_of(r, how)], asker)
    done = [apply(r, how, [a], asker.name) for r, a in zip(records, got.answers)]
    why = Counter(reason for _, reason in done if reason)
    if why:
        print(f"  first answer kept: {told(why)}", flush=True)
    out = [signed(stage, r) if reason is None else r for r, reason in done]
    refined = [r for r in out if r.refinement]
    numbers = {
        "refined": len(refined),
        "first_answer_kept": len(out) - len(refined),
        "characters": _mean([len(r.response) for r in out]),
        "refined_characters": _mean([len(r.refinement or r.response) for r in out]),
    }
    return out, numbers, cost_of(got)


def first_answers_kept(records: Sequence[Record]) -> int | None:
    """How many of the records that `self_refined` made have their first answer alone, because the
    refinement could not be read; None where it made none of them."""
    unread = [NOT_JUDGED in r.meta and not r.refinement for r in records]
    made = any(unread) or any(WEIGHTS in r.meta for r in records)
    return sum(unread) if made else None


def with_expected_scores(stage: Stage, speaker: Speaker, records: Sequence[Record]) -> list[Record]:
    """The records with the mean of the distribution that the model had over scores from 1 to 10
    where it wrote one, in `meta`: of two equal scores it says which was the surer."""
    c, asked = stage.config, []
    for r in records:
        text = r.feedback[-1].text if r.feedback else ""
        found = OVERALL_SCORE.search(text)
        if found:
            before = text[: found.start(1)].rstrip(" [")  # a space belongs to what follows it
            pieces = (*begun(need_response(r)), before)
            rendered = render_prompt(speaker.template, r.prompt, tokenizer=speaker.tokenizer)
            ids, _ = encode_pieces(speaker.tokenizer, rendered, pieces)
            space = text[len(before) : found.start(1)].rstrip("[")
            asked.append((r.id, ids, space))
    rows = axis_size(stage.mesh, BATCH)
    config = ModelConfig.from_hf(read_hf_config(stage.inputs["init"]), stage.inputs["init"])
    how = dict(dtype=c.dtype, rows=rows, max_tokens=c.max_tokens)
    likelihood = Likelihood(stage.inputs["init"], config, stage.mesh, **how)
    scores = range(int(SCALE[0]), int(SCALE[1]) + 1)
    marks = [
        (ids, speaker.tokenizer.continuation(f"{s}[[{n}]]")) for _, ids, s in asked for n in scores
    ]
    logps = np.array([p for p, _ in likelihood(marks, "expected scores")]).reshape(-1, len(scores))
    means = expected_scores(logps, np.array(scores, float))
    known = {id: float(mean) for (id, *_), mean in zip(asked, means)}
    return [
        replace(r, meta={**r.meta, EXPECTED: known[r.id]}) if r.id in known else r for r in records
    ]


def expected_scores(logps: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Means of scores under the distribution that is proportional to these likelihoods; a row for
    each text, a column for each score."""
    p = np.exp(logps - logps.max(axis=1, keepdims=True, initial=-np.inf))
    return (p * scores).sum(axis=1) / p.sum(axis=1)


def signed(stage: Stage, record: Record) -> Record:
    """The record with the hash of the stage's model."""
    return replace(record, meta={**record.meta, WEIGHTS: stage.identity["inputs"]["init"]})


def check_own(stage: Stage, records: Sequence[Record]) -> None:
    """Raises: UserError where another model than the stage's start refined the records: start and
    reference of SRT's second stage are the model that made its pairs."""
    start = stage.identity["inputs"]["init"]
    strange = [r for r in records if r.meta.get(WEIGHTS) != start]
    if strange:
        r, made = strange[0], strange[0].meta.get(WEIGHTS, "unknown")
        raise UserError(
            f"stage '{stage.name}' starts from, and is compared with, the model {start} "
            f"({stage.inputs['init']}), but {len(strange)} of its {len(records)} pairs were made "
            f"by another, such as '{r.id}' of {r.source} (model {made}). Start from the model "
            "that refined them (init), or set own_pairs=false where this is meant."
        )


def _mean(values: Sequence[int]) -> float:
    return sum(values) / max(len(values), 1)
