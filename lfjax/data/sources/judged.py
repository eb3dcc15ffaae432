"""Sources of judged responses: each row holds what was asked, what was answered and what was said
of the answer.

A converter is a function (row, where, options) that yields Records and `Dropped`s.
"""

import math
import re
from typing import Any

from lfjax.data.records import Feedback, Message, Record, RecordError, number
from lfjax.data.sources.reading import (
    Dropped,
    Yielded,
    ends_with,
    full_text,
    has_fields,
    identity,
    in_turns,
    one_of,
    paired,
    place,
    text,
    turns,
    value,
)

ERROR_JUDGMENT = "$ERROR$"  # what the CUT authors' files hold where the call to the judge failed
SATISFACTORY_SCORE = 7  # from here on the released CUT trainer takes no judgment for criticism
HELPSTEER_TURN = "<extra_id_1>"
HELPSTEER_MARKS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

# What HelpSteer3's annotators say of a response, from 0 to 4.
HELPFUL = ("not", "slightly", "partially", "mostly", "perfectly")
HELPFUL_PATTERN = re.compile(rf"response is ({'|'.join(HELPFUL)}) helpful", re.IGNORECASE)
HELPSTEER3_SIDES = (("response1", "feedback1"), ("response2", "feedback2"))


def from_records(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """lfjax's own Records; of scored candidates, the pairs that the option `pairs` asks for."""
    yield from paired(Record.from_json(row, where), options)


def from_cut(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """The CUT authors' format: {id, instruction, input, output, judgment | null, score?, i_ans?}.

    A null judgment means a satisfactory response, and so does a score of at least 7, whatever the
    judgment; a record without the field `judgment` is malformed. A non-empty input follows the
    instruction after a newline; `i_ans`, the improved answer of their offline files, is the
    refinement. Judgments `$ERROR$`, failed calls that the released trainer takes for negative
    judgments, are dropped unless `error_judgments` is `keep`.
    """
    keep = one_of(options, "error_judgments", "drop", "keep") == "keep"
    instruction, response = text(row, "instruction", where), text(row, "output", where)
    extra = text(row, "input", where, optional=True)
    judgment = text(row, "judgment", where, optional=True)
    refinement = text(row, "i_ans", where, optional=True)
    if "judgment" not in row:
        raise RecordError(
            f"{where}: field 'judgment' is missing; a satisfactory response has null."
        )
    score = number(row, "score", where)
    if judgment == ERROR_JUDGMENT and not keep:
        yield Dropped(f"judgment is {ERROR_JUDGMENT}")
        return
    good = judgment is None or (score is not None and score >= SATISFACTORY_SCORE)
    prompt = f"{instruction}\n{extra}" if extra else instruction
    feedback = (Feedback(judgment or "", "positive" if good else "negative", score=score),)
    yield _record(
        identity(row, "id", where),
        "cut",
        where,
        prompt,
        response,
        feedback,
        refinement=refinement if refinement and refinement.strip() else None,
    )


def from_columns(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """Any JSON objects, by column names.

    Options `prompt`, `response`, `judgment`, `score`, `input` and `id` name columns; an empty name
    is a column that the file does not have. A response is satisfactory when its judgment is null or
    empty, equals `satisfactory` (compared without case), or when its score reaches
    `satisfactory_score`. Without the judgment's field and without a score to compare, nobody has
    judged it.
    """
    prompt, response = text(row, options["prompt"], where), text(row, options["response"], where)
    extra = text(row, options["input"], where, optional=True) if options["input"] else None
    judgment = text(row, options["judgment"], where, optional=True)
    score = number(row, options["score"], where) if options["score"] else None
    scored = score is not None and math.isfinite(options["satisfactory_score"])
    word = (judgment or "").strip().rstrip(".").casefold()
    good = options["judgment"] in row and word in ("", options["satisfactory"].casefold())
    good |= scored and score >= options["satisfactory_score"]
    feedback = (Feedback(judgment or "", "positive" if good else "negative", score=score),)
    if options["judgment"] not in row and not scored:
        feedback = ()
    prompt = f"{prompt}\n{extra}" if extra else prompt
    yield _record(identity(row, options["id"], where), "jsonl", where, prompt, response, feedback)


def from_shepherd(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """Shepherd's human_data_for_model.jsonl: {id, dataset, question, answer, feedback}.

    Every answer counts as flawed and scores 1, as the CUT authors convert the set. The row's own id
    and data set are in `meta`; nothing says that these ids differ, so the line is the id.
    """
    prompt, response = full_text(row, "question", where), full_text(row, "answer", where)
    said = full_text(row, "feedback", where).strip()
    feedback = (Feedback(said, "negative", score=1.0, author="human"),)
    meta = {k: str(row[k]) for k in ("id", "dataset") if row.get(k) is not None}
    yield _record(place(where), "shepherd", where, prompt, response, feedback, meta=meta)


def from_defacto(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """DeFacto: {article, candidate, abstract, doc_id, has_error, feedback{explanation, evidence,
    instruction, summary}}.

    The prompt is the article and then the option `request`. The judgment is the explanation, the
    evidence and the instruction, a line each; `weaknesses` and `suggestions` hold the first and the
    last of them apart. The corrected summary is the refinement of a flawed one that it differs
    from; beside a summary without error, the files' few corrections are slips and are left out.
    """
    article, response = full_text(row, "article", where), full_text(row, "candidate", where)
    flawed = value(row, "has_error", bool, where)
    notes, here = value(row, "feedback", dict, where), f"{where}: feedback"
    names = ("explanation", "evidence", "instruction", "summary")
    explanation, evidence, instruction, summary = (
        (text(notes, name, here, optional=True) or "").strip() for name in names
    )
    if not explanation:
        raise RecordError(f"{here}: field 'explanation' is empty; expected a text.")
    lines = [explanation, evidence and f"Evidence: {evidence}"]
    lines += [instruction and f"Instruction: {instruction}"] if flawed else []
    feedback = Feedback(
        "\n".join(filter(None, lines)),
        "negative" if flawed else "positive",
        weaknesses=explanation if flawed else None,
        suggestions=instruction or None if flawed else None,
        author="human",
    )
    kinds = {k: row[k] for k in ("intrinsic_error", "extrinsic_error", "abstract") if k in row}
    yield _record(
        identity(row, "doc_id", where),
        "defacto",
        where,
        f"{article}\n\n{options['request']}",
        response,
        (feedback,),
        refinement=summary if flawed and summary and summary != response.strip() else None,
        meta=kinds,
    )


def from_critiques(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """OpenAI's critiques: {passage{text}, questions[{question, rankings[], answers[{answer,
    feedback{skip, rating, critiques[{text, refinement}]}}]}]}, perhaps inside of a field `data`.

    One record a question: its answer of the highest rank, or of the lowest one where the option
    `rank` is `min` (what the order means is not documented; the CUT authors take the highest). The
    prompt is the passage and the question in a line of its own. The judgment is the critiques'
    texts, joined by spaces, the refinement the last one's; an answer without a critique is
    satisfactory if it is rated 7 of 7. Skipped, empty and half-judged answers are dropped.
    """
    best = max if one_of(options, "rank", "max", "min") == "max" else min
    data = row["data"] if isinstance(row, dict) and "data" in row else row
    passage = full_text(value(data, "passage", dict, where), "text", f"{where}: passage")
    for q, question in enumerate(value(data, "questions", list, where)):
        here = f"{where}: questions[{q}]"
        asked = full_text(question, "question", here)
        answers = value(question, "answers", list, here)
        ranks = value(question, "rankings", list, here)
        if len(answers) != len(ranks) or not all(isinstance(r, (int, float)) for r in ranks):
            raise RecordError(
                f"{here}: field 'rankings' is {ranks}, expected a number for each of "
                f"{len(answers)} answers."
            )
        if not answers:
            yield Dropped("question without an answer")
            continue
        chosen = best(range(len(ranks)), key=ranks.__getitem__)
        here = f"{here}: answers[{chosen}]"
        found = _critique(answers[chosen], here)
        if isinstance(found, Dropped):
            yield found
            continue
        response, feedback, refinement = found
        yield _record(
            f"{place(where)}/{q}",
            "critiques",
            where,
            f"{passage}\n{asked}",
            response,
            (feedback,),
            refinement=refinement,
        )


def _critique(answer, where) -> Dropped | tuple[str, Feedback, str | None]:
    """(answer, feedback, refinement)."""
    response = text(answer, "answer", where, optional=True) or ""
    notes = value(answer, "feedback", dict, where, optional=True)
    if not response.strip():
        return Dropped("empty answer")
    if notes is None or notes.get("skip"):
        return Dropped("feedback skipped")
    here = f"{where}: feedback"
    rating = number(notes, "rating", here)
    critiques = value(notes, "critiques", list, here, optional=True) or []
    how = dict(score=rating, scale=(1.0, 7.0), author="human")
    if not critiques:
        if rating != 7:
            return Dropped("rated below 7 without a critique")
        return response, Feedback("", "positive", **how), None
    texts = [full_text(c, "text", f"{here}: critiques[{i}]") for i, c in enumerate(critiques)]
    refinement = text(critiques[-1], "refinement", here, optional=True) or ""
    if not refinement.strip():
        return Dropped("critique without a refinement")
    said = " ".join(t.strip() for t in texts)
    return response, Feedback(said, "negative", **how), refinement


def from_helpsteer(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """HelpSteer and HelpSteer2: {prompt, response, helpfulness, correctness, coherence, complexity,
    verbosity}, marks from 0 to 4.

    The score is the helpfulness, and a response is satisfactory from `satisfactory_score` on; all
    marks are in `meta`. There is no judgment text, so methods that need one refuse these records.
    Earlier turns, which HelpSteer2 puts into the prompt between `<extra_id_1>` marks, become
    messages.
    """
    prompt, response = full_text(row, "prompt", where), full_text(row, "response", where)
    marks = {name: number(row, name, where) for name in HELPSTEER_MARKS}
    for name, mark in marks.items():
        if mark is None or not 0 <= mark <= 4:
            told = "missing" if mark is None else f"{mark:g}"
            raise RecordError(f"{where}: field '{name}' is {told}, expected a mark from 0 to 4.")
    score = marks["helpfulness"]
    good = score >= options["satisfactory_score"]
    feedback = Feedback(
        "", "positive" if good else "negative", score=score, scale=(0.0, 4.0), author="human"
    )
    first, *rest = prompt.split(HELPSTEER_TURN)
    messages = [Message("user", first.strip())]
    for part in rest:
        name, _, words = part.partition("\n")
        if name not in ("User", "Assistant") or not words.strip():
            raise RecordError(
                f"{where}: field 'prompt' has '{HELPSTEER_TURN}{name[:20]}', expected "
                f"{HELPSTEER_TURN}User or {HELPSTEER_TURN}Assistant and a turn after it."
            )
        messages.append(Message(name.lower(), words.strip()))
    messages = in_turns(messages, "prompt", where)
    ends_with(messages, "user", "prompt", where)
    yield Record(
        place(where),
        "helpsteer",
        messages,
        response,
        feedback=(feedback,),
        meta=marks,
    )


def from_helpsteer3(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """HelpSteer3's parts `feedback` {context[{role, content}], response1, feedback1[…], response2,
    feedback2[…]} and `edit` {context, original_response, feedback[…], edited_response}.

    Of the first part two records a row, of the second one, with the edited response as refinement.
    Each has what up to three people wrote. Their texts say how helpful the response is, in the
    words of `HELPFUL`: that is the score, from 0 to 4, and only the highest is positive. A text
    without these words is mixed and has no score.
    """
    edit = "original_response" in has_fields(row, where)
    messages = turns(value(row, "context", list, where), "context", where)
    ends_with(messages, "user", "context", where)
    meta = {k: str(row[k]) for k in ("domain", "language") if row.get(k) is not None}
    refinement = full_text(row, "edited_response", where) if edit else None
    names = (("original_response", "feedback"),) if edit else HELPSTEER3_SIDES
    for n, (answer, notes) in enumerate(names, 1):
        response, said = full_text(row, answer, where), value(row, notes, list, where)
        if not said or not all(isinstance(s, str) and s.strip() for s in said):
            raise RecordError(f"{where}: field '{notes}' must be a list of texts, none empty.")
        yield Record(
            place(where) if edit else f"{place(where)}/{n}",
            "helpsteer3",
            messages,
            response,
            feedback=tuple(map(_helpful, said)),
            refinement=refinement,
            meta=meta,
        )


def _helpful(said: str) -> Feedback:
    found = HELPFUL_PATTERN.search(said)
    score = float(HELPFUL.index(found[1].lower())) if found else None
    polarity = "mixed" if score is None else "positive" if score == 4 else "negative"
    return Feedback(said.strip(), polarity, score=score, scale=(0.0, 4.0), author="human")


def _record(
    name, source, where, prompt, response, feedback, *, refinement=None, meta=None
) -> Record:
    if not prompt.strip():
        raise RecordError(f"{where}: the prompt is empty.")
    if not response.strip():
        raise RecordError(f"{where}: the response is empty.")
    return Record(
        id=name,
        source=source,
        prompt=(Message("user", prompt),),
        response=response,
        feedback=feedback,
        refinement=refinement,
        meta=meta or {},
    )
