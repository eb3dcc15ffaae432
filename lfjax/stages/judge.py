"""The judge stage: ask an endpoint, a model or a rule what is good or bad about responses."""

from collections import Counter
from dataclasses import replace

from lfjax.data.load import load_records, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Record, to_jsonl
from lfjax.errors import UserError, nearest
from lfjax.judges import JUDGES, apply, get_judge, questions_of
from lfjax.judges.rules import load_rule
from lfjax.stages.answers import asker_inputs, collected, cost_of, open_asker
from lfjax.stages.artifacts import Result, Stage
from lfjax.training.logs import write_atomic

RULE = "rule"  # stands where a config names a judge of `JUDGES`


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
    records = load_records(c.data, stage.inputs, stage.seed)[0].records
    if not c.keep_feedback:
        records = [replace(r, feedback=()) for r in records]
    done, cost = _by_rule(stage, records) if c.judge == RULE else _by_asking(stage, records)
    judged = [r for r, reason in done if reason is None]
    others = [r for r, reason in done if reason is not None]
    missing = Counter(reason for _, reason in done if reason is not None)
    if missing:
        print(f"  not judged: {told(missing)} (missing.jsonl)", flush=True)
    if not judged:
        raise UserError(f"stage '{stage.name}': none of {len(done)} records was judged.")
    write_atomic(stage.folder / "records.jsonl", to_jsonl(judged))
    write_atomic(stage.folder / "missing.jsonl", to_jsonl(others))
    good = sum(r.satisfactory for r in judged)
    headline = {"judged": len(judged), "missing": missing.total(), "satisfactory": good}
    scores = [r.feedback[-1].score for r in judged if r.feedback and r.feedback[-1].score]
    if scores:
        headline["mean_score"] = sum(scores) / len(scores)
    return Result({"records": "records.jsonl"}, headline, cost)


def _by_asking(stage: Stage, records: list[Record]):
    """(record, why it has no judgment) of each, and what it cost."""
    c = stage.config
    how = get_judge(c.judge, c.question)
    asked = [questions_of(record, how) for record in records]
    asker = open_asker(stage, c.data.template)
    stage.begin()
    got = collected(stage, [q for each in asked for q in each], asker)
    answers = iter(got.answers)
    done = [
        apply(record, how, [next(answers) for _ in each], asker.name)
        for record, each in zip(records, asked)
    ]
    return done, cost_of(got)


def _by_rule(stage: Stage, records: list[Record]):
    """The same of a rule, which costs nothing and is not stored."""
    c = stage.config
    rule = load_rule(c.rule, c.rule_options.to_dict())
    stage.begin()
    done = []
    for record in records:
        said = rule(record)
        if said is None:
            done.append((record, "the rule cannot say"))
        else:
            done.append((replace(record, feedback=(*record.feedback, said)), None))
    return done, {}
