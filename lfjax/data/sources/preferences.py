"""Sources of conversations and of responses that were compared.

A comparison becomes one Record: the prompt, and the compared responses as candidates, the preferred
one first. By itself a comparison judges nothing, so there is no feedback; the option `response`
says which of the candidates, if any, is also the Record's response (`none`, `chosen`, `rejected`).
A converter is a function (row, where, options) that yields Records and `Dropped`s.
"""

import re
from typing import Any

from lfjax.data.records import Candidate, Feedback, Message, Record, RecordError, number
from lfjax.data.sources.reading import (
    SAME,
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
from lfjax.errors import UserError

HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
ULTRAFEEDBACK_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
SIDES = ("chosen", "rejected")


def compared(name, source, prompt, chosen: Candidate, rejected: Candidate, options, meta=None):
    """The Record of a comparison, or `SAME` where the two texts do not differ.

    Raises: UserError for a value of the option `response` that is none of the three.
    """
    which = one_of(options, "response", "none", "chosen", "rejected")
    if chosen.text.strip() == rejected.text.strip():
        return SAME
    response = {"none": None, "chosen": chosen.text, "rejected": rejected.text}[which]
    return Record(
        name, source, prompt, response, candidates=(chosen, rejected), meta=dict(meta or {})
    )


def from_hh(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """Anthropic's HH: {chosen, rejected}, two dialogues that differ in the assistant's last turn.

    Turns begin with a blank line and `Human:` or `Assistant:`; spaces around their texts are cut. A
    pair whose dialogues differ before the last turn is dropped: the two answer other questions.
    """
    sides = {name: _hh_turns(full_text(row, name, where), name, where) for name in SIDES}
    prompts = {name: dialogue[:-1] for name, dialogue in sides.items()}
    if prompts["chosen"] != prompts["rejected"]:
        yield Dropped("dialogues differ before the last turn")
        return
    good, bad = (Candidate(sides[n][-1].content, preferred=n == "chosen") for n in SIDES)
    yield compared(place(where), "hh", prompts["chosen"], good, bad, options)


def _hh_turns(dialogue: str, name: str, where: str) -> tuple[Message, ...]:
    before, *rest = HH_TURN.split(dialogue)
    if before.strip() or not rest:
        raise RecordError(
            f"{where}: field '{name}' begins with '{dialogue[:20]}', expected a blank line and "
            "'Human:'."
        )
    out = []
    for who, words in zip(rest[::2], rest[1::2]):
        if not words.strip():
            raise RecordError(f"{where}: field '{name}': turn {len(out)}, {who}'s, is empty.")
        out.append(Message(HH_ROLES[who], words.strip()))
    dialogue = in_turns(out, name, where)
    ends_with(dialogue, "assistant", name, where)
    return dialogue


def from_summarize(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """OpenAI's comparisons of summaries: {info{id, title, subreddit, post | article},
    summaries[2]{text, policy}, choice, worker, batch, extra{confidence}}.

    The prompt is the forum, the title and the post (an article has only its title), then the option
    `request`. Posts recur, so the line is the id, and `meta.post_id` tells the post.
    """
    info = value(row, "info", dict, where)
    here = f"{where}: info"
    post = text(info, "post", here, optional=True) or text(info, "article", here, optional=True)
    if not (post or "").strip():
        raise RecordError(f"{here}: fields 'post' and 'article' are empty; expected one of them.")
    heads = ("subreddit", "Forum: r/"), ("title", "Title: ")
    told = [(head, text(info, name, here, optional=True)) for name, head in heads]
    lines = [f"{head}{words.strip()}" for head, words in told if words and words.strip()]
    summaries = value(row, "summaries", list, where)
    choice = value(row, "choice", int, where)
    if len(summaries) != 2 or choice not in (0, 1):
        raise RecordError(
            f"{where}: {len(summaries)} 'summaries' and 'choice' {choice}, expected two summaries "
            "and 0 or 1."
        )
    good, bad = (
        Candidate(
            full_text(summaries[i], "text", f"{where}: summaries[{i}]").strip(),
            text(summaries[i], "policy", f"{where}: summaries[{i}]", optional=True),
            preferred=i == choice,
        )
        for i in (choice, 1 - choice)
    )
    extra = value(row, "extra", dict, where, optional=True) or {}
    meta = {"post_id": info.get("id"), "worker": row.get("worker"), **extra}
    meta = {k: v for k, v in meta.items() if v is not None}
    prompt = "\n".join([*lines, *([""] if lines else []), post.strip(), "", options["request"]])
    yield compared(
        place(where),
        "summarize_from_feedback",
        (Message("user", prompt),),
        good,
        bad,
        options,
        meta,
    )


def from_ultrafeedback(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """UltraFeedback: {source, instruction, completions[{model, response, critique, overall_score,
    annotations{aspect{Rating}}}]}.

    With the option `records` = `prompt`, one record with a candidate for each completion, or those
    that `pairs` asks for; with `completion`, one record for each, its critique as the judgment.
    `score` is `overall` (1 to 10)
    or `ratings`, the mean of the four aspects (1 to 5, those that are not numbers left out). From
    `satisfactory_score` on a critique is positive, below it mixed: most of them praise first.
    Completions without a text are left out, as is what has none left.
    """
    per_prompt = one_of(options, "records", "prompt", "completion") == "prompt"
    if not per_prompt and options["pairs"] == "all":
        raise UserError("data: pairs is 'all', which needs records='prompt'.")
    overall = one_of(options, "score", "overall", "ratings") == "overall"
    prompt = (Message("user", full_text(row, "instruction", where)),)
    completions = value(row, "completions", list, where)
    meta = {"source": row["source"]} if isinstance(row.get("source"), str) else {}
    candidates = []
    for i, completion in enumerate(completions):
        here = f"{where}: completions[{i}]"
        response = text(completion, "response", here)
        if not response.strip():
            if not per_prompt:
                yield Dropped("empty completion")
            continue
        score = _overall(completion, here) if overall else _ratings(completion, here)
        model = text(completion, "model", here, optional=True)
        candidates.append(Candidate(response, model, score))
        if per_prompt:
            continue
        good = score is not None and score >= options["satisfactory_score"]
        feedback = Feedback(
            full_text(completion, "critique", here).strip(),
            "positive" if good else "mixed",
            score=score,
            scale=(1.0, 10.0) if overall else (1.0, 5.0),
            author="gpt-4",
        )
        name = f"{place(where)}/{i}"
        yield Record(name, "ultrafeedback", prompt, response, model, (feedback,), meta=meta)
    if not candidates:
        yield Dropped("no completion")
    elif per_prompt:
        whole = Record(
            place(where), "ultrafeedback", prompt, candidates=tuple(candidates), meta=meta
        )
        yield from paired(whole, options)


def _overall(completion, where) -> float:
    score = number(completion, "overall_score", where)
    if score is None:
        raise RecordError(
            f"{where}: field 'overall_score' is missing; the set's first version had none: take "
            "the present one, or set data.options.score=ratings."
        )
    return score


def _ratings(completion, where) -> float | None:
    annotations = value(completion, "annotations", dict, where)
    found = []
    for aspect in ULTRAFEEDBACK_ASPECTS:
        here = f"{where}: annotations"
        rating = value(annotations, aspect, dict, here).get("Rating")
        if str(rating).isdigit():  # the others are "N/A"
            found.append(int(rating))
    return sum(found) / len(found) if found else None


def from_messages(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """Chats: {messages[{role, content}], dataset?, id?}, as in the Tulu mixtures; the field's name
    is the option `messages`, and {from, value} are read as well.

    The last message, the assistant's, is the response and what comes before it the prompt. With
    `single_turn`, conversations of several turns are dropped.
    """
    name = options["messages"]
    messages = turns(value(row, name, list, where), name, where)
    ends_with(messages, "assistant", name, where)
    *prompt, answer = messages
    if options["single_turn"] and any(m.role == "assistant" for m in prompt):
        yield Dropped("several turns")
        return
    meta = {"dataset": row["dataset"]} if isinstance(row.get("dataset"), str) else {}
    who = identity(row, options["id"], where)
    yield Record(who, "messages", tuple(prompt), answer.content, meta=meta)


def from_prompts(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """Prompts alone, for a model to answer: texts, or objects with a text or a list of messages in
    the field that the option `prompt` names, or in `messages` or `conversations`; perhaps with
    `system`, with `meta`, an object that is kept, and with `dataset`, a name that is kept, too.
    """
    if isinstance(row, str):
        row = {options["prompt"]: row}
    prompt = _prompt(has_fields(row, where), options["prompt"], where)
    meta = {"dataset": row["dataset"]} if isinstance(row.get("dataset"), str) else {}
    meta |= value(row, "meta", dict, where, optional=True) or {}
    yield Record(identity(row, options["id"], where), "prompts", prompt, meta=meta)


def from_preference(row: Any, where: str, options: dict[str, Any]) -> Yielded:
    """Any pairs: a prompt, `chosen` and `rejected`.

    The prompt is a text or a list of messages in the field that the option `prompt` names, or in
    `messages` or `conversations`; `system`, where there is one, comes before it. `chosen` and
    `rejected` are texts, single messages, or lists of messages; a list that holds the conversation
    as well must hold the same one on both sides, and then no prompt is looked for.
    """
    answers, contexts = {}, []
    for side in SIDES:
        context, answers[side] = _answer(row, options[side], where)
        contexts.append(context)
    if contexts[0] != contexts[1]:
        names = f"'{options['chosen']}' and '{options['rejected']}'"
        raise RecordError(f"{where}: fields {names} differ before their last message.")
    good, bad = (Candidate(answers[side], preferred=side == "chosen") for side in SIDES)
    prompt = contexts[0] or _prompt(row, options["prompt"], where)
    who = identity(row, options["id"], where)
    yield compared(who, "preference", prompt, good, bad, options)


def _answer(row, name, where) -> tuple[tuple[Message, ...], str]:
    """(the messages before it, perhaps none; the answer) of one side."""
    found = has_fields(row, where).get(name)
    if isinstance(found, (str, type(None))):
        return (), full_text(row, name, where)
    messages = found if isinstance(found, list) else [found]
    if len(messages) > 1:
        messages = turns(messages, name, where)
        ends_with(messages, "assistant", name, where)
        return messages[:-1], messages[-1].content
    here = f"{where}: {name}"
    if not messages:
        raise RecordError(f"{here}: the list is empty, expected messages.")
    words = "value" if "from" in has_fields(messages[0], here) else "content"
    speaker = text(messages[0], "from" if words == "value" else "role", here)
    if speaker not in ("gpt", "assistant"):
        raise RecordError(f"{here}: is '{speaker}'s message, expected the assistant's.")
    return (), full_text(messages[0], words, here)


def _prompt(row, name, where) -> tuple[Message, ...]:
    known = [n for n in (name, "messages", "conversations") if row.get(n) is not None]
    if not known:
        raise RecordError(
            f"{where}: has none of the fields '{name}', 'messages', 'conversations'; the record "
            f"has {', '.join(map(str, row))}."
        )
    name = known[0]
    if isinstance(row[name], str):
        messages = (Message("user", full_text(row, name, where)),)
    else:
        messages = turns(row[name], name, where)
    system = text(row, "system", where, optional=True)
    if system and system.strip() and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    ends_with(messages, "user", name, where)
    return messages
