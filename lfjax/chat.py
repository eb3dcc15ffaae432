"""Talk to a model in the terminal.

    python -m lfjax.chat --model DIRECTORY_OR_HUB_ID

Answers appear as they are drawn, with their speed after them. An empty line or Ctrl-D ends the
conversation, /new begins another, Ctrl-C stops an answer. --prompt TEXT asks once and ends.

--self_refine is for models trained with SRT: the model answers, says what is weak about its answer
and refines it; all three are shown, and the refinement is what the conversation goes on with. Where
none can be read the answer stays, and how often is said. --leave_out names what the model was
taught to leave out of its feedback.
"""

import os
import sys
import time
from collections import Counter
from dataclasses import replace

from absl import flags

from lfjax import processes
from lfjax.errors import UserError
from lfjax.main import run, start

MODEL = flags.DEFINE_string("model", None, "A model directory, or an id on the Hugging Face hub.")
TEMPLATE = flags.DEFINE_string(
    "template", "own", "alpaca, tulu, bare, own (the model's chat template) or a .jinja file."
)
PROMPT = flags.DEFINE_string("prompt", None, "Ask this, print the answer, and end.")
SYSTEM = flags.DEFINE_string("system", None, "A system message before the conversation.")
TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "0 takes the likeliest token.", 0.0)
TOP_P = flags.DEFINE_float("top_p", 1.0, "Least share of probability that is drawn from.")
TOP_K = flags.DEFINE_integer("top_k", 0, "Likeliest tokens that are drawn from; 0 for all.")
MIN_P = flags.DEFINE_float("min_p", 0.0, "Leave out what is so much less likely than the best.")
PENALTY = flags.DEFINE_float("repetition_penalty", 1.0, "Above 1, tokens seen become less likely.")
NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 512, "Of one answer.", 1)
TOKENS = flags.DEFINE_integer("max_tokens", 2048, "Of the whole conversation.", 2)
SELF_REFINE = flags.DEFINE_bool("self_refine", False, "Show answer, feedback and refinement.")
REFINE_TOKENS = flags.DEFINE_integer(
    "refine_tokens", 2048, "Of feedback and refinement; less where max_tokens leaves less.", 1
)
LEAVE_OUT = flags.DEFINE_string(
    "leave_out",
    "",
    "What a model that refines was taught to leave out: score, suggestions, weaknesses, words, "
    "feedback.",
)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of weights and activations, or bfloat16.")


def main(argv) -> None:
    start(argv)
    if MODEL.value is None:
        raise UserError("--model DIRECTORY_OR_HUB_ID is needed.")
    if processes.count() > 1 and PROMPT.value is None:
        raise UserError("a conversation needs one process; several can answer a --prompt.")
    if LEAVE_OUT.value and not SELF_REFINE.value:
        raise UserError("--leave_out is for models that refine their answers: set --self_refine.")
    from lfjax.data.self_refine import check_refines
    from lfjax.generation.rules import Sampling
    from lfjax.generation.speaker import open_speaker
    from lfjax.models.hf import resolve_model
    from lfjax.sharding import make_mesh

    check_refines(LEAVE_OUT.value)
    rules = Sampling(
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        min_p=MIN_P.value,
        repetition_penalty=PENALTY.value,
    )
    mesh = make_mesh({"tensor": 1, "fsdp": -1})
    speaker = open_speaker(
        resolve_model(MODEL.value),
        mesh,
        template=TEMPLATE.value,
        dtype=DTYPE.value,
        slots=1,
        max_tokens=TOKENS.value,
    )
    converse(speaker, rules)


def converse(speaker, rules) -> None:
    """Answer what the user types, or the one prompt, until there is no more."""
    from lfjax.data.records import Message
    from lfjax.data.self_refine import stop_of

    first = [Message("system", SYSTEM.value)] if SYSTEM.value else []
    stop = (stop_of(LEAVE_OUT.value),) if SELF_REFINE.value else ()
    said, turn, counts = list(first), 0, Counter()
    while True:
        text = PROMPT.value if PROMPT.value is not None else ask()
        if not text:
            return
        if text == "/new":
            said = list(first)
            continue
        said.append(Message("user", text))
        request = speaker.request(
            said,
            max_new_tokens=NEW_TOKENS.value,
            sampling=rules,
            seed=(SEED.value, turn),
            stop=stop,
        )
        try:
            answer, _ = show(speaker, request)
            if SELF_REFINE.value and answer.strip():
                answer = refine(speaker, said, answer, counts)
        except UserError as error:  # a conversation that has become too long
            if PROMPT.value is not None:
                raise
            print(f"lfjax: {error} /new begins another conversation.", file=sys.stderr)
            said.pop()
            continue
        if PROMPT.value is not None:
            return
        said.append(Message("assistant", answer))
        turn += 1


def ask() -> str:
    """What the user types; empty at the end of the input."""
    try:
        return input("\n> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def refine(speaker, said, answer: str, counts: Counter) -> str:
    """Print the model's feedback on its answer and its refinement as they come; the refinement, or
    the answer where it cannot be read.

    Args:
      counts: of the conversations so far, `asked` and `kept` (answers that stayed).
    """
    from lfjax.judges.parsing import Missing

    counts["asked"] += 1
    found = criticized(speaker, said, answer)
    if not isinstance(found, Missing):
        return found.refinement
    counts["kept"] += 1
    told = f"the answer stays, {counts['kept']} of {counts['asked']} so far"
    print(f"(not read as a refinement: {found.reason}; {told})", file=sys.stderr)
    return answer.rstrip()  # what goes on with its feedback leaves blank lines before it


def criticized(speaker, said, answer: str):
    """What the model says of its answer, a `Critique`, or `Missing`. It has the room that the
    conversation leaves."""
    from lfjax.data.self_refine import begun, stop_of
    from lfjax.generation.rules import GREEDY
    from lfjax.judges.parsing import CUT_OFF, Missing, own_critique

    leave_out, most = LEAVE_OUT.value, REFINE_TOKENS.value
    begin = begun(answer, leave_out)
    request = speaker.request(said, begin=begin, max_new_tokens=most, sampling=GREEDY)
    room = TOKENS.value - len(request.ids)
    if room < 1:
        return Missing(f"max_tokens={TOKENS.value} leaves no room for it")
    print(f"\n{stop_of(leave_out)}")
    limit = "refine_tokens" if most <= room else "max_tokens"
    text, finish = show(speaker, replace(request, max_new_tokens=min(most, room)), limit)
    ended = {"length": Missing(CUT_OFF), None: Missing("interrupted")}
    return ended[finish] if finish in ended else own_critique(text, leave_out)


def show(speaker, request, limit: str = "max_new_tokens") -> tuple[str, str | None]:
    """Print an answer as it comes, and how fast it came; the answer, and how it ended: `stop`,
    `length`, or None where the user interrupted it.

    Args:
      limit: the flag that bounds it.
    """
    from lfjax.data.load import safe
    from lfjax.generation.scheduler import stream

    completion, first, began = None, None, time.monotonic()
    try:
        for piece, completion in stream(speaker.engine, speaker.params, request, speaker.tokenizer):
            print(safe(piece, lines=True), end="", flush=True)
            first = first or (time.monotonic(), len(completion.ids))
    except KeyboardInterrupt:
        print(" …", end="")
    print(flush=True)
    if completion is None:
        return "", None
    # The first piece waited for the prompt, and for compilation the first time.
    since, before = first
    drawn, seconds = len(completion.ids) - before, time.monotonic() - since
    if not drawn:
        drawn, seconds = len(completion.ids), time.monotonic() - began
    cut = f", cut at {limit}" if completion.finish == "length" else ""
    told = f"({len(completion.ids)} tokens, {drawn / max(seconds, 1e-9):,.0f} tokens/s{cut})"
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\x1b[2m{told}\x1b[0m" if dim else told, file=sys.stderr, flush=True)
    return completion.text, completion.finish


if __name__ == "__main__":
    run(main)
