"""Token blame: which words of flawed responses the judgments blamed, and how strongly, as a table
and as a page.

A flawed response is scored with its judgment in the prompt and without, by the forward pass that
trains it. The table (`step-<n>.parquet`) has a row per response and lists per token; the page
(`step-<n>.html`) is made from the table alone, so that it can be made again.
"""

import difflib
import io
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Num

from lfjax.data.load import Batches
from lfjax.data.plan import Plan, make_plan, rows_of
from lfjax.data.records import Record
from lfjax.data.rows import Rows, Unit, span
from lfjax.data.tokenize import Tokenizer
from lfjax.data.views import Role, need_judgment
from lfjax.errors import UserError
from lfjax.losses.cut import blamed
from lfjax.sharding import BATCH, axis_size, put
from lfjax.stages.artifacts import Stage
from lfjax.training.logs import write_atomic
from lfjax.training.optimizer import UNITS
from lfjax.training.step import batch_shardings

CONTEXT = 8  # tokens before a text that are decoded with it, so that its first space is right
CHARACTER = 4  # byte tokens of the longest character
RULE = ("threshold", "detect", "misalign")  # the options of CUT that decide what is blamed
META = b"lfjax.blame"  # where the table keeps how it was made
FAR = 99.0  # stands for an infinite log-probability or ratio on the page, which JSON lacks


def make_blame(
    stage: Stage,
    options: dict[str, Any],
    batches: Batches,
    heldout: Batches | None,
    tokenizer: Tokenizer,
    logprobs: Callable[[Any, Rows], jax.Array],
    abstract: Any,
) -> Callable[[int, Any], None]:
    """(step, params) -> None, which writes `blame/step-<n>.parquet` and `.html` under the stage.

    Args:
      options: of the method; those named in `RULE` decide what is blamed.
      batches, heldout: whose flawed responses are shown, the held-out ones if there are any; at
        most `blame_records` of them, drawn by the seed.
      logprobs: (params, rows) -> log-probability of every target, as in training.
      abstract: the parameters as ShapeDtypeStructs with shardings.

    It writes nothing where the method detects nothing, no response is flawed, or `blame_records` is
    0.

    Raises: UserError for a negative `blame_records`, or an interval where nothing is written.
    """
    wanted = stage.config.blame_records
    if wanted < 0:
        raise UserError(f"blame_records={wanted}: expected a number of records, or 0 for none.")
    kept_out = bool(heldout and flawed_units(heldout))
    batches = heldout if kept_out else batches
    flawed = flawed_units(batches)
    if not flawed or not wanted:
        if any(stage.config.get(f"blame_{unit}") for unit in UNITS):
            raise UserError(
                f"stage '{stage.name}': blame_steps, blame_epochs or blame_examples is set, but "
                "nothing would be shown: it needs the method cut with use_l1, flawed responses, "
                "and blame_records above 0."
            )
        return lambda step, params: None
    chosen = sorted(random.Random(stage.seed).sample(range(len(flawed)), min(wanted, len(flawed))))
    units = [flawed[i] for i in chosen]
    shards = axis_size(stage.mesh, BATCH)
    plan = make_plan(
        np.array([u.length for u in units]),
        row_tokens=stage.config.row_tokens,
        seed=stage.seed,
        batch_rows=shards,
        multiple=shards,
    )
    score = jax.jit(
        logprobs,
        in_shardings=(
            jax.tree.map(lambda s: s.sharding, abstract),
            batch_shardings(Rows.empty(1, 1), stage.mesh),
        ),
        out_shardings=NamedSharding(stage.mesh, P()),
    )
    rule = {name: options[name] for name in RULE}
    about = {"stage": stage.name, "flawed": len(flawed), "heldout": kept_out, **rule}
    texts = [text_columns(batches.records[u.record], u, tokenizer) for u in units]

    def blame(step: int, params) -> None:
        logp = score_units(partial(score, params), plan, units, stage.mesh)
        if jax.process_index():
            return
        found = [blame_columns(part, **rule) for part in logp]
        rows = [text | columns for text, columns in zip(texts, found)]
        write(stage.folder / "blame" / f"step-{step}", to_table(rows, {**about, "step": step}))

    return blame


def flawed_units(batches: Batches) -> list[Unit]:
    """Units that show a flawed response to be compared with itself after its judgment."""
    return [u for u in batches.encoded.units if any(s.role == Role.FLAWED for s in u.segments)]


def score_units(
    score: Callable[[Rows], jax.Array], plan: Plan, units: Sequence[Unit], mesh: Mesh
) -> list[dict[Role, Float[np.ndarray, "n"]]]:
    """Per unit, the log-probabilities of each view's targets, by a compiled forward pass over all
    steps of a plan."""
    logp = [
        np.asarray(score(put(rows_of(plan, step, units, "token"), mesh, P(BATCH))))
        for step in range(plan.steps)
    ]
    return by_role(plan, units, logp)


# --- columns ----------------------------------------------------------------------------------


def by_role(
    plan: Plan, units: Sequence[Unit], logp: Sequence[Float[np.ndarray, "b t"]]
) -> list[dict[Role, Float[np.ndarray, "n"]]]:
    """Per unit, the log-probabilities of each view's targets, from those of all rows per step."""
    out: list[dict] = [{} for _ in units]
    for step, scores in enumerate(logp):
        part = slice(plan.first[step], plan.first[step + 1])
        for unit, row, start in zip(plan.unit[part], plan.row[part], plan.offset[part]):
            for segment in units[unit].segments:
                out[unit][Role(segment.role)] = scores[row, start + span(segment)]
                start = start + len(segment.ids)
    return out


def blame_columns(
    logp: dict[Role, Float[np.ndarray, "n"]], *, threshold: float, detect: str, misalign: str
) -> dict[str, Any]:
    """Log-probabilities of one response under its views, what the judgment changes, and U.

    `log_ratio` is log p_judged - log p of what detection compares it with: the plain view, or with
    `misalign = fake_positive` the praised one.
    """
    compared = logp[Role.PRAISED if misalign == "fake_positive" else Role.FLAWED]
    judged = logp[Role.JUDGED]
    in_u = np.asarray(blamed(jnp.asarray(judged), jnp.asarray(compared), threshold, detect))
    praised = logp.get(Role.PRAISED)
    return {
        "logp_plain": logp[Role.FLAWED].tolist(),
        "logp_judged": judged.tolist(),
        "logp_praised": None if praised is None else praised.tolist(),
        "log_ratio": (judged - compared).tolist(),
        "blamed": in_u.tolist(),
    }


def text_columns(record: Record, unit: Unit, tokenizer: Tokenizer) -> dict[str, Any]:
    """What was said, and the response as its tokens spell it. The last token is EOS, which has no
    character."""
    segment = next(s for s in unit.segments if s.role == Role.FLAWED)
    text, spans = decoded(tokenizer, segment.ids[:-1], segment.first)
    # Chat templates end an answer with a token of their own, which need not be the tokenizer's EOS.
    ending = tokenizer.hf.convert_ids_to_tokens(int(segment.ids[-1]))
    names = [text[a:b] for a, b in spans] + [ending]
    spans = [*spans, (len(text), len(text))]
    turns = [(m.role, m.content) for m in record.prompt]
    prompt = turns[0][1] if len(turns) == 1 else "\n\n".join(f"{r}: {c}" for r, c in turns)
    return {
        "record": record.id,
        "source": record.source,
        "prompt": prompt,
        "judgment": need_judgment(record),
        "response": text,
        "token": segment.ids[segment.first :].tolist(),
        "piece": names,
        "start": [a for a, _ in spans],
        "end": [b for _, b in spans],
    }


def decoded(
    tokenizer: Tokenizer, ids: Iterable, first: int = 0
) -> tuple[str, list[tuple[int, int]]]:
    """The text of ids[first:], and where in it each of these tokens stands.

    Decoded bit by bit after what came before, because a token alone may lose its space or be a part
    of a character; tokens that make up a character together share its place.
    """
    ids = [int(i) for i in ids]

    def decode(part):
        return tokenizer.hf.backend_tokenizer.decode(part, skip_special_tokens=False)

    text, spans, context, read = "", [], max(first - CONTEXT, 0), first
    for here in range(first + 1, len(ids) + 1):
        now = decode(ids[context:here])
        torn = now.endswith("\N{REPLACEMENT CHARACTER}")
        if torn and here < len(ids) and here - read < CHARACTER:
            continue
        new = now[len(decode(ids[context:read])) :]
        spans += [(len(text), len(text) + len(new))] * (here - read)
        text += new
        context, read = read, here
    return text, spans


# --- the table --------------------------------------------------------------------------------


def to_table(rows: list[dict[str, Any]], about: dict[str, Any]):
    """A pyarrow Table: one row per response, lists per token, and `about` in its metadata."""
    import pyarrow as pa

    text = ("record", "source", "prompt", "judgment", "response")
    schema = pa.schema(
        [(name, pa.string()) for name in text]
        + [(name, pa.list_(pa.int32())) for name in ("token", "start", "end")]
        + [("piece", pa.list_(pa.string()))]
        + [
            (name, pa.list_(pa.float32()))
            for name in ("logp_plain", "logp_judged", "logp_praised", "log_ratio")
        ]
        + [("blamed", pa.list_(pa.bool_()))],
        metadata={META: json.dumps(about)},
    )
    return pa.Table.from_pylist(rows, schema=schema)


def read_table(path: str | Path):
    """A table that `write` wrote. Raises: UserError if there is none at `path`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error}).") from None
    if META not in (table.schema.metadata or {}):
        raise UserError(f"{path}: not a table of token blame; expected STAGE/blame/step-N.parquet.")
    return table


def write(path: Path, table) -> None:
    """`path`.parquet and `path`.html, each there whole or not at all."""
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(table, stream)
    write_atomic(path.with_name(f"{path.name}.parquet"), stream.getvalue())
    write_atomic(path.with_name(f"{path.name}.html"), render(table))


# --- the page ---------------------------------------------------------------------------------


def render(table) -> str:
    """The page of a table: self-contained, every text escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    page = Environment(
        autoescape=True, loader=folder, undefined=StrictUndefined, trim_blocks=True
    ).get_template("blame.html.jinja")
    about = json.loads(table.schema.metadata[META])
    records = table.to_pylist()
    data = {
        # A threshold of 0 blames everything; the page compares logarithms.
        "cut": math.log(about["threshold"]) if about["threshold"] > 0 else -FAR,
        "other": "with praise" if about["misalign"] == "fake_positive" else "without",
        "tokens": [page_tokens(r) for r in records],
    }
    return page.render(about=about, records=records, data=data)


def page_tokens(row: dict[str, Any]) -> list[list]:
    """[text, log ratio, log p_judged, log p of what it is compared with, blamed] of each visible
    piece of a response.

    The tokens of one character are shown as one, with the strongest ratio among them; EOS as None.
    """
    last = len(row["token"]) - 1
    columns = (row["log_ratio"], row["logp_judged"], row["logp_praised"] or row["logp_plain"])

    def place(i):
        # Of two tokens at one place the later may be empty (a mark that is not shown): still one.
        return (i == last, row["start"][i], row["end"][i])

    out = []
    for _, group in groupby(range(last + 1), key=place):
        group = list(group)
        top = max(group, key=lambda i: row["log_ratio"][i])
        text = None if top == last else row["piece"][top]
        numbers = [round(float(np.nan_to_num(c[top], posinf=FAR, neginf=-FAR)), 4) for c in columns]
        out.append([text, *numbers, int(any(row["blamed"][i] for i in group))])
    return out


# --- against the truth ------------------------------------------------------------------------


def average_precision(scores: Num[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> float:
    """Σ (R_k - R_{k-1}) · P_k over the distinct scores from the highest down; NaN where nothing is
    true.

    P and R are precision and recall of taking everything that scores at least as much; equal scores
    are taken together, so that the order of the tokens does not matter.
    """
    scores, truth = np.asarray(scores), np.asarray(truth, bool)
    if not truth.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(truth[order])
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    gained = np.diff(hits[ends], prepend=0)
    return float((gained * hits[ends] / (ends + 1)).sum() / hits[-1])


def dropped_tokens(
    text: str, corrected: str, start: Iterable, end: Iterable
) -> Bool[np.ndarray, "n"]:
    """Which tokens of `text` belong to a word that its correction drops or replaces.

    Args:
      start, end: per token, its characters in `text`; a token without any (EOS) is never wrong.

    DeFacto's truth: words and marks of the candidate summary are aligned with the corrected one's.
    """
    old, new = (list(re.finditer(r"\w+|[^\w\s]", t)) for t in (text, corrected))
    matcher = difflib.SequenceMatcher(
        None, [w[0] for w in old], [w[0] for w in new], autojunk=False
    )
    wrong = np.zeros(len(text) + 1, bool)
    for kind, i, j, _, _ in matcher.get_opcodes():
        if kind in ("delete", "replace"):
            for word in old[i:j]:
                wrong[word.start() : word.end()] = True
    return np.array([bool(wrong[a:b].any()) for a, b in zip(start, end)])
