"""From a data block of a config to batches: load, keep some records out, encode, plan, and fill the
rows of any step."""

import hashlib
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfjax.data.folds import prompt_key
from lfjax.data.mixture import MIXTURE, load_mixture, mixture_blocks
from lfjax.data.plan import Plan, density, rows_of
from lfjax.data.records import Record
from lfjax.data.rows import Encoded, Rows, encode_records
from lfjax.data.sources import Loaded, load
from lfjax.data.templates import speaking
from lfjax.data.tokenize import Tokenizer
from lfjax.errors import UserError

# Besides control characters: format characters (they can reorder a line), lone surrogates, private
# use, and separators that a terminal may take for a line break.
UNSAFE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


@dataclass(frozen=True)
class Batches:
    """A plan with all that fills it. Step n is random access; nothing is read from disk.
    `segments` as for `plan.rows_of`."""

    records: list[Record]
    encoded: Encoded
    plan: Plan
    normalize: str
    segments: int = 0

    def rows(self, step: int) -> Rows:
        """The rows of a step (from 0) as numpy arrays."""
        return rows_of(self.plan, step, self.encoded.units, self.normalize, self.segments)

    def record_ids(self, step: int) -> list[str]:
        """The ids of the records that a step takes."""
        return [self.records[self.encoded.units[u].record].id for u in self.plan.units_of(step)]

    def digest(self) -> str:
        """A hash of all tokens and of the order in which steps take them."""
        total = hashlib.sha256(self.plan.unit.tobytes())
        for unit in self.encoded.units:
            for segment in unit.segments:
                total.update(np.asarray(segment.ids, np.int32).tobytes())
        return total.hexdigest()

    def segment_lengths(self, step: int) -> list[int]:
        """Tokens of every segment of a step."""
        units = (self.encoded.units[u] for u in self.plan.units_of(step))
        return [len(s.ids) for unit in units for s in unit.segments]


def load_records(data, paths: Mapping[str, str], seed: int) -> tuple[Loaded, list[Record]]:
    """The records of a data block, those kept out apart: `heldout_examples` of them, as whole
    prompts. The same seed keeps out the same ones.

    Args:
      paths: where what the block reads was found, by role (`mixture.data_inputs`).

    Raises: UserError if more are to be kept out than there are, less one, and as `load` and
    `load_mixture` do.
    """
    how = dict(downsample=data.downsample, seed=seed, on_error=data.on_error)
    options = data.options.to_dict()
    if data.source == MIXTURE:
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise UserError(
                f"data.options.{given[0]} is set, but the sources of a mixture have their options "
                "in its blocks."
            )
        loaded = load_mixture(mixture_blocks(data, paths), **how)
    else:
        loaded = load(paths["data"], data.source, options=options, **how)
    count = data.heldout_examples
    if not 0 <= count < len(loaded.records):
        raise UserError(
            f"data.heldout_examples={count}: {paths.get('data', 'the mixture')} has "
            f"{len(loaded.records)} records to train on."
        )
    out = _kept_out(loaded.records, count, seed)
    if out and len(out) == len(loaded.records):
        raise UserError(
            f"data.heldout_examples={count}: the records kept out have the prompts of all others, "
            "so that none is left to train on."
        )
    heldout = [r for i, r in enumerate(loaded.records) if i in out]
    loaded.records = [r for i, r in enumerate(loaded.records) if i not in out]
    return loaded, heldout


def _kept_out(records: list[Record], count: int, seed: int) -> set[int]:
    """Indices of so many records, or a few more where prompts with several records do not add up to
    that; no prompt is on both sides."""
    if not count:
        return set()
    groups: dict[str, set[int]] = defaultdict(set)
    for i, record in enumerate(records):
        groups[prompt_key(record)].add(i)
    drawn = random.Random(seed).sample(range(len(records)), count)
    known = set(drawn)
    others = [i for i in range(len(records)) if i not in known]
    out: set[int] = set()
    for most in (count, len(records)):  # a larger group is taken where the small ones are too few
        for i in (*drawn, *others):
            if len(out) >= count:
                return out
            group = groups[prompt_key(records[i])] - out
            if len(out) + len(group) <= most:
                out |= group
    return out


def encode(config, records: list[Record], views, tokenizer, template: str) -> Encoded:
    """`encode_records` with the settings of a stage.

    Raises: UserError if no record is left, or rows are shorter than what they hold.
    """
    if config.row_tokens < config.max_tokens:
        raise UserError(
            f"row_tokens={config.row_tokens} is less than max_tokens={config.max_tokens}; "
            "a row holds at least one segment, and should hold two where twins must fit."
        )
    encoded = encode_records(
        records,
        views,
        tokenizer,
        template,
        max_tokens=config.max_tokens,
        row_tokens=config.row_tokens,
        on_error=config.data.on_error,
    )
    if not encoded.units:
        raise UserError(f"no record is left to learn from: {told(encoded.counts)}.")
    return encoded


def describe(loaded: Loaded, batches: Batches) -> list[str]:
    """What will be learned, in a few lines for the terminal."""
    good = sum(r.satisfactory for r in batches.records)
    sources = Counter(safe(r.source) for r in batches.records)
    plan, units = batches.plan, batches.encoded.units
    lengths = np.array([u.length for u in units])
    left_out = loaded.dropped + batches.encoded.counts
    trimmed = left_out.pop("prompt trimmed", 0)
    bad = [*loaded.skipped, *batches.encoded.skipped]
    lines = [
        f"records: {len(batches.records)} "
        f"({good} satisfactory, {len(batches.records) - good} not), {len(units)} used",
        *([f"of these: {told(sources)}"] if len(sources) > 1 else []),
        f"left out: {told(left_out)}; prompts trimmed: {trimmed}",
        f"steps: {plan.steps} ({plan.epoch_steps} an epoch, "
        f"{plan.epoch_examples / plan.epoch_steps:.1f} examples each), "
        f"rows of {plan.row_tokens} tokens, {' or '.join(map(str, plan.shapes))} a step, "
        f"{density(plan, lengths):.0%} full",
    ]
    return lines + malformed(bad)


def tell_left_out(loaded: Loaded) -> None:
    """Print what a source left out, in a few lines; nothing where it took all."""
    lines = [f"left out: {told(loaded.dropped)}"] if loaded.dropped.total() else []
    for line in lines + malformed(loaded.skipped):
        print(f"  {line}", flush=True)


def malformed(messages: Sequence[str]) -> list[str]:
    """The first three messages of bad records, and how many more there are."""
    lines = [f"malformed, left out: {safe(message)}" for message in messages[:3]]
    more = len(messages) - len(lines)
    return lines + ([f"malformed, left out: {more} more"] if more else [])


def eos_share(encoded: Encoded, tokenizer: Tokenizer, template: str) -> float:
    """Share of the responses that are learned whose end is learned too, the token that the template
    ends an answer with: a model that was never taught to end does not."""
    eos = speaking(tokenizer, template).eos
    learned = [s for unit in encoded.units for s in unit.segments if s.weight > 0]
    ended = sum(s.ids[-1] == eos and s.first < len(s.ids) for s in learned)
    return float(ended / max(len(learned), 1))


def safe(text: str, *, lines: bool = False) -> str:
    """The text with everything that could command a terminal written as an escape; `lines` keeps
    line breaks."""

    def one(character):
        if (lines and character == "\n") or unicodedata.category(character) not in UNSAFE:
            return character
        return character.encode("unicode_escape").decode("ascii")

    return "".join(map(one, text))


def told(counts: Counter) -> str:
    """`3 too long, 1 empty`, or `none`."""
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if n) or "none"
