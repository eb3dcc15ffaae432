"""One made-up row of every public source, in its schema, each with a name of its own; and how rows
are read."""

import copy

from lfjax.data.sources import load
from tests.conftest import write_jsonl

SHEPHERD = {
    "id": 3,
    "dataset": "piqa",
    "question": "How do I dry a wet book?",
    "answer": "Put it into the oven.",
    "feedback": "An oven may burn the pages; press it between paper towels.",
}
DEFACTO = {
    "article": "The bridge in Ulm opened in May. It cost 3 million.",
    "abstract": "A bridge opened in Ulm.",
    "candidate": "The bridge in Bonn opened in May.",
    "doc_id": 17,
    "has_error": True,
    "intrinsic_error": True,
    "extrinsic_error": False,
    "feedback": {
        "summary": "The bridge in Ulm opened in May.",
        "evidence": "The bridge in Ulm",
        "explanation": "It names the wrong town.",
        "instruction": "Replace Bonn with Ulm.",
        "instruction_list": ["Replace Bonn with Ulm."],
    },
}


def judged_answer(
    answer="It rained.", critiques=(("Too short.", "It rained all day."),), **feedback
):
    """An answer of the critiques' schema."""
    notes = [{"text": t, "refinement": r} for t, r in critiques]
    return {
        "answer": answer,
        "feedback": {"skip": False, "rating": 3, "critiques": notes, **feedback},
    }


CRITIQUES = {
    "id": "c",
    "passage": {"text": "A passage about rain."},
    "questions": [
        {
            "question": "What happened?",
            "rankings": [1, 2],
            "answers": [judged_answer("Nothing."), judged_answer()],
        }
    ],
}
HELPSTEER = {
    "prompt": "Hi<extra_id_1>Assistant\nHello!<extra_id_1>User\nName a colour.",
    "response": "Blue.",
    "helpfulness": 3,
    "correctness": 4,
    "coherence": 4,
    "complexity": 0,
    "verbosity": 1,
}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Name a colour."},
]
HELPSTEER3 = {
    "domain": "general",
    "language": "english",
    "context": TURNS,
    "response1": "Blue.",
    "response2": "Seven.",
    "feedback1": ["The response is perfectly helpful. It is one."],
    "feedback2": ["The response is not helpful: a number.", "It is a number."],
}
HELPSTEER3_EDIT = {
    "domain": "general",
    "language": "english",
    "context": TURNS,
    "original_response": "Seven.",
    "edited_response": "Blue.",
    "feedback": ["The response is slightly helpful: a number."],
    "change_summary": "A colour instead of a number.",
}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a colour.\n\nAssistant: Blue.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a colour.\n\nAssistant: No.",
}
SUMMARIZE = {
    "info": {"id": "t3_x", "post": "I lost my key.", "title": "Key", "subreddit": "help"},
    "summaries": [
        {"text": " Somebody lost something.", "policy": "sup1", "note": None},
        {"text": " I lost my key.", "policy": "ref", "note": None},
    ],
    "choice": 1,
    "worker": "w1",
    "batch": "b1",
    "split": "train",
    "extra": {"confidence": 7},
}


def completion(model="m", response="Blue.", score=8.0, ratings=("4", "5", "N/A", "3")):
    """A completion of UltraFeedback's schema."""
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "model": model,
        "response": response,
        "critique": f"On {response}",
        "overall_score": score,
        "annotations": {n: {"Rating": r, "Rationale": "…"} for n, r in zip(names, ratings)},
    }


ULTRAFEEDBACK = {
    "source": "sharegpt",
    "instruction": "Name a colour.",
    "models": ["m", "n"],
    "completions": [completion(), completion("n", "Seven.", 2, ("1", "2", "2", "1"))],
}
MESSAGES = {
    "dataset": "lima",
    "id": "lima_0",
    "messages": [
        {"role": "system", "content": "Be brief."},
        *TURNS,
        {"role": "assistant", "content": "Blue."},
    ],
}
PREFERENCE = {"id": "p", "prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Name a colour."}],
    "chosen": {"from": "gpt", "value": "Blue."},
    "rejected": {"from": "gpt", "value": "Seven."},
}

ROWS = {
    "shepherd": [SHEPHERD],
    "defacto": [DEFACTO],
    "critiques": [CRITIQUES],
    "helpsteer": [HELPSTEER],
    "helpsteer3": [HELPSTEER3, HELPSTEER3_EDIT],
    "hh": [HH],
    "summarize_from_feedback": [SUMMARIZE],
    "ultrafeedback": [ULTRAFEEDBACK],
    "messages": [MESSAGES],
    "preference": [PREFERENCE, SHAREGPT],
}


def read(tmp_path, source, *rows, **options):
    """What is loaded from rows of a source."""
    return load(write_jsonl(tmp_path / "a.jsonl", list(rows)), source, options=options)


def one(tmp_path, source, row, **options):
    (record,) = read(tmp_path, source, row, **options).records
    return record


def changed(row, path, value):
    """A row with one place of it replaced, or removed where the value is KeyError."""
    row = copy.deepcopy(row)
    *steps, last = path
    inner = row
    for step in steps:
        inner = inner[step]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return row
