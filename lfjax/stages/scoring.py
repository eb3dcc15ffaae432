"""Scores of texts by a model with a scalar head: its calibration when it was trained, and a scorer
of Records.

A reward r(x, y) reads a record's `response`. A gap reads `refinement` as the candidate and
`response` as the reference that it is compared with.   n records, b rows, s segments of a row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from lfjax.data.load import Batches
from lfjax.data.records import Message, Record
from lfjax.data.rows import Rows, Segment, Unit, place, spare_tokens, trim
from lfjax.data.templates import render_prompt, speaking, template_text
from lfjax.data.tokenize import Tokenizer, encode_supervised, load_tokenizer
from lfjax.data.views import Role, after_reference
from lfjax.errors import UserError
from lfjax.methods.method import Method
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.decoder import Decoder
from lfjax.models.hf import load_frozen
from lfjax.models.scalar import load_head, score_fn
from lfjax.sharding import BATCH, axis_size, put
from lfjax.stages.artifacts import Stage
from lfjax.stages.trainable import Trainable
from lfjax.training.step import batch_shardings

BATCH_TOKENS = 16384  # of one forward pass, padding included
SHORTEST = 32  # tokens of the shortest rows


def calibrated(
    stage: Stage,
    method: Method,
    options: dict[str, Any],
    heldout: Batches,
    model: Trainable,
    trained: Any,
) -> dict[str, Any]:
    """What the numbers of a trained head mean, by the held-out records: `Method.calibrate`, how
    many there were, and how long texts may be."""
    shardings = jax.tree.map(lambda x: x.sharding, (trained, model.frozen))
    rows = batch_shardings(Rows.empty(1, 1), stage.mesh)
    whole = NamedSharding(stage.mesh, P())
    score = jax.jit(
        lambda both, rows: model.logprobs(both[0], rows, both[1]),
        in_shardings=(shardings, rows),
        out_shardings=whole,
    )
    scores, kinds = [], []
    for step in range(heldout.plan.steps):
        batch = heldout.rows(step)
        found = np.asarray(score((trained, model.frozen), put(batch, stage.mesh, P(BATCH))))
        scores.append(found[batch.kind > 0])
        kinds.append(batch.kind[batch.kind > 0])
    told = method.calibrate(np.concatenate(scores), np.concatenate(kinds), **options)
    sizes = {"heldout": len(heldout.encoded.units), "max_tokens": stage.config.max_tokens}
    return {**told, **sizes}


@dataclass(frozen=True)
class Scorer:
    """Scores Records.

    Attributes:
      kind: `reward`, `gap`, or `difference` (a gap made of two rewards).
      meaning: the content of `score.json`; `offset` is taken off every score, so that a reward
        of 0 is an average one and a gap of 0 says equally good; divided by `spread` they are in
        standard deviations.
      tokenizer, template: how texts are shown.
    """

    kind: str
    meaning: dict[str, Any]
    tokenizer: Tokenizer
    template: str
    mesh: Mesh
    params: Any
    forward: Callable[[Any, Rows], jax.Array]
    where: str

    @property
    def spread(self) -> float:
        return self.meaning["spread"]

    @property
    def compares(self) -> bool:
        """Scores a text against another one."""
        return self.kind != "reward"

    @property
    def bands(self) -> tuple[float, float]:
        """Of a gap: the scores that separate worse from similar, and similar from better; half-way
        between the held-out means of g_lw, of equal texts (the offset), and of g_wl."""
        means, offset = self.meaning["means"], self.meaning["offset"]
        return tuple((means[side] - offset) / 2 for side in ("lw", "wl"))

    def __call__(self, records: Sequence[Record]) -> Float[np.ndarray, "n"]:
        """The centred score of every record, float32.

        A prompt that is too long loses its start, as in training.

        Raises: UserError for a record without the texts that are scored, for texts that do not
        fit, and for a score that is not finite.
        """
        texts = [self._texts(r) for r in records]
        for record, shown in zip(records, texts):
            for fitted, tokens in shown:
                if fitted is None:
                    raise UserError(
                        f"{self.where}: record '{record.id}' has {tokens} tokens without its "
                        "prompt; the model was trained on texts of at most "
                        f"{self.meaning['max_tokens']}."
                    )
        return self._centred(records, texts)

    def where_it_fits(self, records: Sequence[Record]) -> Float[np.ndarray, "n"]:
        """As calling it, but NaN for a record whose texts do not fit."""
        texts = [self._texts(r) for r in records]
        fitting = np.array([all(t is not None for t, _ in shown) for shown in texts], bool)
        out = np.full(len(records), np.nan, np.float32)
        own = [pair for pair, fits in zip(zip(records, texts), fitting) if fits]
        if own:
            out[fitting] = self._centred(*zip(*own))
        return out

    def _texts(self, record: Record) -> list[tuple[Segment | None, int]]:
        """What is read of a record, as `_fitted`: one text, or two, whose scores are compared."""
        if self.kind == "reward":
            shown = [_alone(record, record.response)]
        elif self.kind == "gap":
            shown = [_compared(record)]
        else:
            shown = [_alone(record, record.refinement), _alone(record, record.response)]
        return [self._fitted(record, *one) for one in shown]

    def _centred(self, records, texts) -> Float[np.ndarray, "n"]:
        sides = zip(*([segment for segment, _ in shown] for shown in texts))
        found = [self._scores(records, segments) for segments in sides] or [np.zeros(0)]
        return (found[0] - found[1] if len(found) > 1 else found[0]) - self.meaning["offset"]

    def _scores(self, records, segments) -> Float[np.ndarray, "n"]:
        out = np.zeros(len(segments), np.float32)
        for indices, rows in batches(segments, axis_size(self.mesh, BATCH)):
            found = np.asarray(self.forward(self.params, put(rows, self.mesh, P(BATCH))))
            out[indices] = found[: len(indices), 0]
        for record, score in zip(records, out):
            if not np.isfinite(score):
                raise UserError(
                    f"{self.where}: the score of record '{record.id}' is {score}. Its weights, or "
                    "what it was trained on, are broken; look at that stage's metrics."
                )
        return out

    def _fitted(
        self, record: Record, messages: Sequence[Message], text: str
    ) -> tuple[Segment | None, int]:
        """A text that has lost as much of its prompt as it must, None where that is not enough; and
        its tokens without the prompt."""
        prompt = render_prompt(self.template, messages, tokenizer=self.tokenizer)
        ids, first = encode_supervised(self.tokenizer, prompt, text)
        # Of the prompt alone some may be lost, not of a reference that comes after it.
        spare = spare_tokens(self.tokenizer, self.template, record.prompt)
        segment = Segment(ids, first, int(Role.PLAIN), 1.0, None, spare=spare)
        fitted = trim(segment, self.meaning["max_tokens"], self.tokenizer.bos is not None)
        return fitted, len(ids) - spare


def _alone(record: Record, text: str | None) -> tuple[Sequence[Message], str]:
    if text is None:
        raise UserError(f"record '{record.id}': has no text to score.")
    return record.prompt, text


def _compared(record: Record) -> tuple[Sequence[Message], str]:
    if record.refinement is None or record.response is None:
        raise UserError(
            f"record '{record.id}': a gap needs a refinement (the candidate) and a response (the "
            "reference)."
        )
    return after_reference(record, record.response), record.refinement


def batches(segments: Sequence[Segment], multiple: int) -> Iterator[tuple[np.ndarray, Rows]]:
    """(indices, rows) with one segment a row: similar lengths together, and sizes that are powers
    of 2, so that few shapes are compiled. Rows beyond the indices are padding."""
    lengths = np.array([len(s.ids) for s in segments])
    width = np.maximum(SHORTEST, 2 ** np.ceil(np.log2(lengths)).astype(int))
    for t in np.unique(width):
        whose = np.flatnonzero(width == t)
        most = max(BATCH_TOKENS // int(t), 1)
        for part in np.array_split(whose, -(-len(whose) // most)):
            b = -(-(1 << (len(part) - 1).bit_length()) // multiple) * multiple
            rows = Rows.empty(b, int(t), 1)
            for row, i in enumerate(part):
                place(rows, Unit(int(i), (segments[i],)), row, 0, 1, "token")
            yield part, rows


def load_scorer(
    path: str, mesh: Mesh, *, policy: str = "", dtype: str = "float32", template: str = "own"
) -> Scorer:
    """The scorer of a model directory that the method `reward` or `gap` wrote, on its shards.

    Args:
      policy: model directory whose texts will be scored; its tokenizer has to be the same.
      dtype: of the decoder's weights and activations, or bfloat16; the head is float32.
      template: as in a data block; `own` is the one that it was trained with.

    Raises: UserError for a directory without a head, and another tokenizer than the policy's.
    """
    config = ModelConfig.from_hf(read_hf_config(path), path)
    head, meaning = load_head(path, config)
    text = template_text(template, path)
    tokenizer = load_tokenizer(path)
    if policy and not same_tokens(tokenizer, load_tokenizer(policy)):
        raise UserError(
            f"{path}: its tokenizer is not that of {policy}; a reward model has to read what the "
            "policy writes. Train both from models of one tokenizer."
        )
    params = load_frozen(path, config, mesh, dtype)
    params = (params, put({"kernel": jnp.asarray(head["kernel"])}, mesh, P()))
    compiled = jit_scores(config, dtype, mesh)

    def forward(params, rows):
        with jax.set_mesh(mesh):
            return compiled(params, rows)

    where = f"{meaning['kind']} model {path}"
    return Scorer(
        meaning["kind"], meaning, speaking(tokenizer, text), text, mesh, params, forward, where
    )


def jit_scores(config: ModelConfig, dtype: str, mesh: Mesh):
    """((parameters, head), rows) -> the score of every segment, compiled."""
    run = score_fn(Decoder(config, dtype))
    whole = NamedSharding(mesh, P())
    return jax.jit(lambda params, rows: run(*params, rows), out_shardings=whole)


def widest_rows(max_tokens: int, multiple: int) -> Rows:
    """The rows of one forward pass over texts of so many tokens."""
    t = max(SHORTEST, 1 << (max_tokens - 1).bit_length())
    most = 1 << (max(BATCH_TOKENS // t, 1) - 1).bit_length()
    return Rows.empty(-(-most // multiple) * multiple, t, 1)


def same_tokens(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers know the same tokens by the same ids, special ones included."""
    return a.hf.get_vocab() == b.hf.get_vocab() and (a.bos, a.eos) == (b.bos, b.eos)
