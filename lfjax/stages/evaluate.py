"""The evaluate stage: any set of systems on the same prompts. Exact truth in the lab, judges
elsewhere."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

from lfjax.data.load import load_records, told
from lfjax.data.mixture import data_inputs
from lfjax.data.records import Candidate, Record
from lfjax.data.sources import load
from lfjax.errors import UserError, nearest
from lfjax.evaluation.alpaca_eval import has_place, outputs
from lfjax.evaluation.results import (
    Pair,
    Scores,
    Trial,
    Verdict,
    as_lines,
    per_prompt,
    summary,
    verdicts_by_score,
)
from lfjax.evaluation.rouge import rouge
from lfjax.evaluation.sides import Sides, align
from lfjax.judges import apply, get_judge, questions_of
from lfjax.judges.rules import load_rule
from lfjax.lab.metrics import score_responses
from lfjax.lab.oracle import parts_of, right_share
from lfjax.stages.answers import asker_inputs, collected, cost_of, open_asker
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.own_words import first_answers_kept
from lfjax.training.logs import write_atomic

# mode -> the score that is shown, and by which systems are compared with a baseline
MODES = {
    "truth": "right",
    "rule": "satisfactory",
    "score": "score",
    "feedback": "satisfactory",
    "rouge": "rougeL",
    "judge": "",
}
FIELDS = ("response", "refinement")


def inputs(config) -> dict[str, str]:
    """What the stage reads: the systems' records, references for `rouge`, and a model where one
    judges.

    Raises: UserError for a mode, a system or a baseline that there is not, or that is not set.
    """
    for name, value, known in (
        ("mode", config.mode, MODES),
        ("field", config.field, FIELDS),
        *(("field", field_of(config, name), FIELDS) for name in config.systems),
        ("baseline", config.baseline, ("", *config.systems)),
    ):
        if value not in known:
            raise UserError(f"evaluate: {name}='{value}'. {nearest(value, filter(None, known))}")
    if config.on_missing == "empty" and config.mode != "truth":
        raise UserError("on_missing=empty: only the lab's truth scores an answer of no words.")
    if config.mode == "feedback" and config.field != "response":
        raise UserError("mode=feedback reads what was said of responses; set field=response.")
    if config.resamples < 1:
        raise UserError(f"evaluate: resamples={config.resamples}; expected at least 1.")
    out = {role: path for seeds in system_roles(config).values() for role, path in seeds.items()}
    if config.mode == "judge":
        out |= asker_inputs(config)
    if config.mode == "rouge" and has_data(config):
        out |= data_inputs(config.data)
    return out


def system_roles(config) -> dict[str, dict[str, str]]:
    """By system, its sources by their role among the inputs: one, or one for each seed.

    Raises: UserError for a name that cannot be a file's, or a source that is not set.
    """
    out = {}
    for name, system in config.systems.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"evaluate: system '{name}': expected letters, digits, '_' and '-'.")
        if not system.path:
            raise UserError(
                f"evaluate: systems.{name}.path is not set: give a stage that made records, or a "
                "file of Records with responses."
            )
        seeds = (system.path,) if isinstance(system.path, str) else tuple(system.path)
        role = f"systems/{name}"
        out[name] = {f"{role}/{k}" if len(seeds) > 1 else role: s for k, s in enumerate(seeds)}
    counts = {len(roles) for roles in out.values()} - {1}
    if not out or len(counts) > 1:
        told_counts = ", ".join(f"{name} {len(roles)}" for name, roles in out.items())
        raise UserError(
            f"evaluate: sources of each system: {told_counts or 'none'}; expected at least one "
            "system, and of each either one source or one for every seed."
        )
    return out


def has_data(config) -> bool:
    return config.data.path is not None or bool(config.data.mixture)


def evaluate(stage: Stage) -> Result:
    """Score the systems, compare them, and write `results.json` and `per_prompt.jsonl`.

    Raises: UserError for systems with different prompts, and where nothing was judged or scored;
    what there is is written before.
    """
    c = stage.config
    loaded = read_systems(stage)
    sides = [align(systems, c.on_missing) for systems in loaded]
    left_out = without_a_place(stage, sides) if c.alpaca_eval else {}
    trials, about, cost = _judged(stage, sides) if c.mode == "judge" else _scored(stage, sides)
    column = MODES[c.mode]
    tables = summary(trials, seed=stage.seed, resamples=c.resamples)
    results = {"mode": c.mode, **about, **left_out, **tables}
    for name, system in results["systems"].items():
        if field_of(c, name) == "refinement":
            kept = first_answers_kept([r for systems in loaded for r in systems[name]])
            system |= {} if kept is None else {"fallbacks": kept}
        if c.mode == "truth":
            system["table"] = truth_table(sides, name)
    files = write(stage, results, trials)
    print("\n".join(f"  {line}" for line in as_lines(results, column)), flush=True)
    _check_not_empty(stage, results)
    return Result(files, headline(results, column), cost)


def field_of(config, system: str) -> str:
    """What is evaluated of a system: of `FIELDS`."""
    return config.systems[system].get("field", config.field)


def read_systems(stage: Stage) -> list[dict[str, list[Record]]]:
    """Per seed, the records of every system, with what is evaluated as their response. A system
    that has one source has the same answers in all seeds."""
    c = stage.config
    roles = system_roles(c)

    def read(name: str, role: str) -> list[Record]:
        records = load(stage.inputs[role], "records", on_error=c.data.on_error).records
        if field_of(c, name) == "refinement":
            # a response that needed none has none, nor one whose refinement could not be read
            records = [replace(r, response=r.refinement or r.response) for r in records]
        return records

    loaded = {name: [read(name, role) for role in own] for name, own in roles.items()}
    count = max(len(seeds) for seeds in loaded.values())
    return [
        {name: seeds[k if len(seeds) > 1 else 0] for name, seeds in loaded.items()}
        for k in range(count)
    ]


# --- scores -----------------------------------------------------------------------------------


def _scored(stage: Stage, sides: list[Sides]) -> tuple[list[Trial], dict[str, Any], dict[str, Any]]:
    """Trials with a score for each answer, and with verdicts by it where there is a baseline."""
    c = stage.config
    score = SCORES[c.mode](stage)
    stage.begin()
    trials = []
    for s in sides:
        scores = {
            name: [None if a is None else score(p, a) for p, a in zip(s.prompts, answers)]
            for name, answers in s.answers.items()
        }
        verdicts = verdicts_by_score(scores, c.baseline, MODES[c.mode]) if c.baseline else {}
        trials.append(Trial(s, scores, verdicts))
    return trials, ({"rule": c.rule} if c.mode in ("rule", "score") else {}), {}


def _by_truth(stage: Stage) -> Callable[[Record, Record], Scores | None]:
    def score(prompt: Record, answer: Record) -> Scores:
        right = right_share(parts_of(prompt, answer.response))
        return {"right": float(right), "all_right": float(right == 1)}

    return score


def _by_rule(stage: Stage) -> Callable[[Record, Record], Scores | None]:
    rule = load_rule(stage.config.rule, stage.config.rule_options.to_dict())

    def score(prompt: Record, answer: Record) -> Scores | None:
        said = rule(replace(answer, feedback=()))
        return None if said is None else _of_feedback(replace(answer, feedback=(said,)))

    return score


def _by_feedback(stage: Stage) -> Callable[[Record, Record], Scores | None]:
    return lambda prompt, answer: _of_feedback(answer) if answer.feedback else None


def _of_feedback(record: Record) -> Scores:
    marks = [f.score for f in record.feedback if f.score is not None]
    score = {"score": float(marks[-1])} if marks else {}
    return {"satisfactory": float(record.satisfactory), **score}


def _by_rouge(stage: Stage) -> Callable[[Record, Record], Scores | None]:
    c = stage.config
    known = None
    if has_data(c):
        loaded, heldout = load_records(c.data, stage.inputs, stage.seed)
        known = {r.id: reference_of(r, c.reference) for r in (*loaded.records, *heldout)}

    def score(prompt: Record, answer: Record) -> Scores | None:
        ours = reference_of(answer, c.reference) if known is None else known.get(prompt.id)
        if ours is None:
            return None
        return {kind: float(f[0]) for kind, f in rouge([answer.response], [ours]).items()}

    return score


SCORES = {
    "truth": _by_truth,
    "rule": _by_rule,
    "score": _by_rule,
    "feedback": _by_feedback,
    "rouge": _by_rouge,
}


def reference_of(record: Record, what: str) -> str | None:
    """The text that a summary is compared with: the `refinement`, which of a satisfactory response
    is the response itself; the `chosen` candidate; or `meta.NAME`. None where there is none.

    Raises: UserError for anything else.
    """
    if what == "refinement":
        return record.refinement or (record.response if record.satisfactory else None)
    if what == "chosen":
        return next((c.text for c in record.candidates if c.preferred), None)
    if what.startswith("meta."):
        found = record.meta.get(what.removeprefix("meta."))
        return found if isinstance(found, str) else None
    raise UserError(f"reference='{what}': expected refinement, chosen, or meta.NAME.")


def truth_table(sides: list[Sides], name: str) -> dict[str, float]:
    """What is right by groups and tiers, over all seeds (`lfjax.lab.metrics`)."""
    pairs = [(p, a) for s in sides for p, a in zip(s.prompts, s.answers[name]) if a is not None]
    return score_responses([p for p, _ in pairs], [a.response for _, a in pairs])


# --- judges -----------------------------------------------------------------------------------


def _judged(stage: Stage, sides: list[Sides]) -> tuple[list[Trial], dict[str, Any], dict[str, Any]]:
    """Trials with verdicts of a judge that sees both answers, in both orders."""
    c = stage.config
    if len(c.systems) < 2:
        raise UserError("mode=judge compares systems; give at least two.")
    how = get_judge("preference", c.question)
    pairs = pairs_of(list(sides[0].answers), c.baseline)
    trials = [Trial(s) for s in sides]
    shown = [
        (t, pair, two_candidates(t.sides, pair, i))
        for t in trials
        for pair in pairs
        for i in range(len(t.sides.prompts))
    ]
    asked = [questions_of(record, how) for *_, record in shown if isinstance(record, Record)]
    asker = open_asker(stage, c.data.template)
    stage.begin()
    got = collected(stage, [q for each in asked for q in each], asker)
    answers = iter(got.answers)
    for trial, pair, verdict in shown:
        if isinstance(verdict, Record):
            given = [next(answers) for _ in range(2)]
            verdict = _verdict(*apply(verdict, how, given, asker.name))
        trial.verdicts.setdefault(pair, []).append(verdict)
    return trials, {"judge": asker.name}, cost_of(got)


def pairs_of(names: list[str], baseline: str) -> list[Pair]:
    """Every system with the baseline, or every two where there is none."""
    if baseline:
        return [(name, baseline) for name in names if name != baseline]
    return list(combinations(names, 2))


def two_candidates(sides: Sides, pair: Pair, i: int) -> Record | Verdict:
    """What a judge is asked about a prompt: a record with both answers, the system's second. Equal
    answers are a tie, which two orders could not make anything else; nothing is asked."""
    own, other = (sides.answers[name][i] for name in pair)
    if own is None or other is None:
        return Verdict(float("nan"), "no answer")
    if own.response == other.response:
        return Verdict(0.0)
    candidates = (Candidate(other.response), Candidate(own.response))
    p = sides.prompts[i]
    return Record(p.id, p.source, p.prompt, candidates=candidates)


def _verdict(record: Record, reason: str | None) -> Verdict:
    if reason is not None:
        return Verdict(float("nan"), reason)
    return Verdict({"first": -1.0, "tie": 0.0, "second": 1.0}[record.meta["preference"]])


# --- results ----------------------------------------------------------------------------------


def without_a_place(stage: Stage, sides: list[Sides]) -> dict[str, int]:
    """How many prompts AlpacaEval's files cannot hold. It is said before anybody is asked."""
    prompts = [p for s in sides for p in s.prompts]
    count = sum(not has_place(p) for p in prompts)
    if count:
        print(
            f"  {count} of {len(prompts)} prompts have several messages, which AlpacaEval's files "
            "have no place for: they are evaluated, and left out of alpaca_eval/*.json "
            f"(--config.stages.{stage.name}.alpaca_eval=false writes no such files)",
            flush=True,
        )
    return {"not_in_alpaca_eval": count}


def write(stage: Stage, results: dict[str, Any], trials: list[Trial]) -> dict[str, str]:
    """The stage's files, by the names of its outputs."""
    write_atomic(stage.folder / "results.json", json.dumps(results, indent=2) + "\n")
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in per_prompt(trials))
    write_atomic(stage.folder / "per_prompt.jsonl", rows)
    files = {"results": "results.json", "per_prompt": "per_prompt.jsonl"}
    if stage.config.alpaca_eval:
        for k, t in enumerate(trials):
            for name, answers in t.sides.answers.items():
                model = f"{name}-{k}" if len(trials) > 1 else name
                rows = outputs([a for a in answers if a is not None and has_place(a)], model)
                path = f"alpaca_eval/{model}.json"
                text = json.dumps(rows, indent=2, ensure_ascii=False)
                write_atomic(stage.folder / path, text + "\n")
                files[f"alpaca_eval/{model}"] = path
    return files


def headline(results: dict[str, Any], column: str) -> dict[str, Any]:
    """For `done.json`: each system's score, and each comparison's win - lose."""
    out = {"prompts": results["prompts"], "seeds": results["seeds"]}
    for name, system in results["systems"].items():
        if column in system["scores"]:
            out[f"{name}/{column}"] = system["scores"][column]["mean"]
    for c in results["comparisons"]:
        out[f"{c['system']} - {c['against']}"] = c["delta"]
    return out


def _check_not_empty(stage: Stage, results: dict[str, Any]) -> None:
    """Raises: UserError where no number came out."""
    kept = f"What there is is in {stage.folder}."
    comparisons = results["comparisons"]
    if stage.config.mode == "judge":
        if all(c["delta"] is None for c in comparisons):
            why = sum((Counter(c["missing_because"]) for c in comparisons), Counter())
            raise UserError(f"stage '{stage.name}': nothing was judged ({told(why)}). {kept}")
    elif not any(system["scores"] for system in results["systems"].values()):
        raise UserError(
            f"stage '{stage.name}': no answer could be scored by {stage.config.mode}. {kept}"
        )
