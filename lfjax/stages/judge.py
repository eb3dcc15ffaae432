"""The judge stage: ask an endpoint, a model or a rule what is good or bad about responses, or how
good their refinements are."""

from collections import Counter
from dataclasses import replace

from lfjax.data.critiques import parts_left
from lfjax.data.filters import EXPECTED, EXPECTED_REFINED
from lfjax.data.load import load_records, tell_left_out, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Candidate, Record, to_jsonl
from lfjax.data.self_refine import stop_of
from lfjax.errors import UserError, nearest
from lfjax.judges import JUDGES, NOT_JUDGED, apply, get_judge, questions_of
from lfjax.judges.parsing import Critique
from lfjax.judges.rules import load_critic
from lfjax.stages.answers import (
    asker_inputs,
    collected,
    cost_of,
    local_asker,
    open_asker,
    open_local,
    total_cost,
)
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.own_words import SELF, SELF_SCORE, signed, with_expected_scores
from lfjax.training.logs import write_atomic

RULE = "rule"  # stands where a config names a judge of `JUDGES`
FIELDS = ("response", "refinement")
# Of a refinement the score is wanted, not a refinement of its own.
SCORING = {"critique": "critique_score", SELF: SELF_SCORE}
PROBE = 50  # records that are judged before the others
EXAMPLE = 200  # characters of an answer in a message


def inputs(config) -> dict[str, str]:
    """What the stage reads: records, and a model where one judges. Raises: UserError for an unknown
    judge."""
    if config.judge not in (RULE, *JUDGES):
        raise UserError(
            f"judge: unknown '{config.judge}'. {nearest(config.judge, (RULE, *JUDGES))}"
        )
    asked = {} if config.judge == RULE else asker_inputs(config)
    return {**data_inputs(config.data), **asked}


def judge(stage: Stage) -> Result:
    """Feedback on all records. Those that the judge did not answer for, or not in a form that can
    be read, go to `missing.jsonl`, with what it said."""
    c = stage.config
    if c.field not in FIELDS:
        raise UserError(f"field='{c.field}'. {nearest(c.field, FIELDS)}")
    loaded = load_records(c.data, stage.inputs, stage.seed)[0]
    records = loaded.records
    tell_left_out(loaded)
    ask = _by_rule if c.judge == RULE else _by_asking
    if c.field == "refinement":
        done, cost = scored_refinements(records, lambda shown: ask(stage, shown))
    else:
        if not c.keep_feedback:
            records = [replace(r, feedback=()) for r in records]
        done, cost = ask(stage, records)
    judged = [r for r, reason in done if reason is None]
    others = [r for r, reason in done if reason is not None]
    missing = Counter(reason for _, reason in done if reason is not None)
    if missing:
        print(f"  not judged: {told(missing)} (missing.jsonl)", flush=True)
    write_atomic(stage.folder / "missing.jsonl", to_jsonl(others))
    if not judged:
        raise UserError(f"stage '{stage.name}': {none_judged(others)}")
    write_atomic(stage.folder / "records.jsonl", to_jsonl(judged))
    good = sum(r.satisfactory for r in judged)
    headline = {"judged": len(judged), "missing": missing.total(), "satisfactory": good}
    scores = [score_of(r, c.field) for r in judged]
    scores = [s for s in scores if s is not None]
    if scores:
        headline["mean_score"] = sum(scores) / len(scores)
    return Result({"records": "records.jsonl"}, headline, cost)


def _by_asking(stage: Stage, records: list[Record]):
    """(record, why it has no judgment) of each, and what it cost."""
    c = stage.config
    scoring = c.field == "refinement" and "score" in parts_left(c.leave_out)
    kind = SCORING.get(c.judge, c.judge) if scoring else c.judge
    how, by_itself = get_judge(kind, c.question, c.leave_out), kind in (SELF, SELF_SCORE)
    asked = [questions_of(record, how) for record in records]
    if by_itself:
        speaker = open_local(stage, c.data.template)
        stop = (*c.stop, *([stop_of("feedback")] if kind == SELF_SCORE else []))
        asker = local_asker(stage, speaker, stop=stop)
    else:
        asker = open_asker(stage, c.data.template)
    stage.begin()

    def first(count: int):
        """What the judge says of so many records, and what that cost."""
        got = collected(stage, [q for each in asked[:count] for q in each], asker)
        answers = iter(got.answers)
        done = [
            apply(record, how, [next(answers) for _ in each], asker.name)
            for record, each in zip(records, asked[:count])
        ]
        return done, cost_of(got)

    before = None
    if len(records) > 2 * PROBE:  # a judge that never keeps to the form is not paid for all
        done, before = first(PROBE)
        if all(reason for _, reason in done):
            write_atomic(stage.folder / "missing.jsonl", to_jsonl([r for r, _ in done]))
            raise UserError(
                f"stage '{stage.name}' stopped after {PROBE} of {len(records)} records: "
                + none_judged([r for r, _ in done])
            )
    done, cost = first(len(records))
    if by_itself:
        done = [(signed(stage, r), reason) for r, reason in done]
        if c.expected_score:
            surer = with_expected_scores(stage, speaker, [r for r, _ in done])
            done = [(r, reason) for r, (_, reason) in zip(surer, done)]
    return done, total_cost([before, cost]) if before else cost


def scored_refinements(records: list[Record], ask):
    """The refinements shown as responses, with nothing of what was said before; their scores become
    those of candidates, beside the responses' own.

    A judge that has seen its own feedback likes what came of it (Hu et al. 2024, section 3.1.1).
    """
    have = [r for r in records if r.refinement]
    shown = [
        replace(
            r,
            response=r.refinement,
            refinement=None,
            feedback=(),
            candidates=(),
            meta={k: v for k, v in r.meta.items() if k != EXPECTED},
        )
        for r in have
    ]
    found, cost = ask(shown)
    judged = {id(r): said for r, said in zip(have, found)}
    done = []
    for r in records:
        said, reason = judged.get(id(r), (r, "no refinement"))
        if reason is None:
            own = Candidate(r.response, r.model, score_of(r, "response"))
            author = r.feedback[-1].author if r.feedback else None
            better = Candidate(r.refinement, author, score_of(said, "response"))
            meta = dict(r.meta)
            if EXPECTED in said.meta:
                meta[EXPECTED_REFINED] = said.meta[EXPECTED]
            done.append((replace(r, candidates=(better, own), meta=meta), None))
        else:
            note = {k: v for k, v in said.meta.items() if k == NOT_JUDGED}
            done.append((replace(r, meta={**r.meta, **note}), reason))
    return done, cost


def score_of(record: Record, field: str) -> float | None:
    """The score of a record's response, or of its refinement."""
    if field == "refinement":
        return record.candidates[0].score if record.candidates else None
    return record.feedback[-1].score if record.feedback else None


def none_judged(records: list[Record]) -> str:
    """That not one was judged: the three most common reasons, each with an answer as it was
    given."""
    notes = [r.meta.get(NOT_JUDGED, {"reason": "no judgment", "answers": []}) for r in records]
    counts = Counter(note["reason"] for note in notes)
    lines = [f"none of {len(records)} records was judged."]
    for reason, count in counts.most_common(3):
        answers = next((n["answers"] for n in notes if n["reason"] == reason), [])
        given = next((a for a in answers if a), None)
        example = "" if given is None else f", such as {given[:EXAMPLE]!r}"
        lines.append(f"  {count}: {reason}{example}")
    return "\n".join([*lines, "All answers are kept in missing.jsonl and in the store."])


def _by_rule(stage: Stage, records: list[Record]):
    """The same of a rule, which costs nothing and is not stored."""
    c = stage.config
    rule = load_critic(c.rule, c.rule_options.to_dict())
    stage.begin()
    done = []
    for record in records:
        said = rule(record)
        if said is None:
            done.append((record, "the rule cannot say"))
            continue
        if isinstance(said, Critique):
            record, said = replace(record, refinement=said.refinement), said.feedback
        done.append((replace(record, feedback=(*record.feedback, said)), None))
    return done, {}
