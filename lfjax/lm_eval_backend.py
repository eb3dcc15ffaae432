"""EleutherAI's lm_eval on our checkpoints: its tasks, our forward pass and sampler.

    lm_eval run --model lfjax --model_args path=DIRECTORY_OR_HUB_ID --tasks TASK

Versions of lm_eval that look for backends of other packages find this one by its entry point. Up to
0.4.13 they do not: `python -m lfjax.lm_eval_backend run …`, with the same arguments, names it to
them first. The package comes with the extra `eval`.   b rows, t tokens, d model, v vocabulary.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lfjax.data.records import Message
from lfjax.data.self_refine import begun, check_refines, stop_of
from lfjax.data.templates import render_prompt, speaking, template_text
from lfjax.data.tokenize import encode_pieces, load_tokenizer
from lfjax.errors import UserError, nearest
from lfjax.generation.engine import make_engine
from lfjax.generation.likelihood import Likelihood
from lfjax.generation.rules import GREEDY, Sampling
from lfjax.generation.scheduler import Completion, Request, generate
from lfjax.judges.parsing import CUT_OFF, Missing, own_critique
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.hf import resolve_model
from lfjax.sharding import BATCH, axis_size, make_mesh
from lfjax.training.logs import progress

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise SystemExit('lfjax: lm_eval is not installed; pip install "lfjax[eval]".') from None

NAME, TARGET = "lfjax", "lfjax.lm_eval_backend:LfjaxLM"
CHUNK = 128  # tokens of each row whose logits exist at once
SHORTEST_ROW = 512
NEW_TOKENS = 256  # where a task sets no limit, as in lm_eval's own backends
REFINE_TOKENS = 2048
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
# self_refine -> what a task reads of a generated text
READS = {"false": "all", "0": "all", "first": "first", "true": "refinement", "1": "refinement"}


class LfjaxLM(TemplateLM):
    """A model directory as lm_eval wants it. Texts are cut into tokens as its `hf` backend cuts
    them: the names of special tokens are these tokens, and BOS comes first where the tokenizer adds
    one.

    Args, given as `--model_args path=DIR,dtype=bfloat16`:
      path: a model directory or an id on the hub.
      dtype: of the computation.
      max_tokens: that the model sees at once; 0 for its number of positions.
      batch_size: rows that each device scores at once; a row holds many short texts.
      slots: texts that are continued at once.
      template: of --apply_chat_template: own (the model's), or as `data.template`.
      self_refine: for models trained with SRT. `true`: generated answers are refined by the model's
        own feedback, and the refinement alone is what the task reads; where it cannot be read, the
        first answer is, and counted. `first`: the task reads the first answer, which ends where the
        feedback begins. The task's stop texts are for what it reads; its limit of tokens is not
        applied.
      refine_tokens: at most, of the first answer, and of feedback and refinement together; 0 for
        2,048, or half of what the model sees where that is less.
      leave_out: what the model was taught to leave out of its text (`self_refine.LEAVE_OUT`).

    Raises: UserError for arguments or a directory that make no sense.
    """

    def __init__(
        self,
        path: str = "",
        dtype: str = "float32",
        max_tokens: int = 0,
        batch_size: int | str | None = 1,
        slots: int = 32,
        template: str = "own",
        self_refine: bool | str = False,
        refine_tokens: int = 0,
        leave_out: str = "",
        max_batch_size: Any = None,
        device: Any = None,
        **unknown: Any,
    ):
        super().__init__()
        known = ("path", "dtype", "max_tokens", "batch_size", "slots", "template")
        known += ("self_refine", "refine_tokens", "leave_out")
        if unknown or not path:
            what = f"unknown '{next(iter(unknown))}'" if unknown else "path is not set"
            raise UserError(f"model_args: {what}. {nearest(next(iter(unknown), 'path'), known)}")
        self.path = resolve_model(path)
        self.config = ModelConfig.from_hf(read_hf_config(self.path), self.path)
        self.words = load_tokenizer(self.path)
        if self.words.size > self.config.vocab_size:
            raise UserError(
                f"{path}: the tokenizer has {self.words.size} tokens, the model's vocabulary "
                f"{self.config.vocab_size}. Is it this model's tokenizer?"
            )
        self.dtype, self.template = dtype, template
        self.max_tokens = int(max_tokens) or self.config.max_positions
        self.refine_tokens = int(refine_tokens) or min(REFINE_TOKENS, self.max_tokens // 2)
        self.leave_out = leave_out
        self.reads = self.checked_reads(str(self_refine).lower())
        self.mesh = make_mesh({"fsdp": -1})
        shards = axis_size(self.mesh, BATCH)
        self.rows = shards * (int(batch_size) if str(batch_size).isdigit() else 1)
        self.slots = int(slots)

    # --- the model, read when it is first needed ------------------------------------------------

    @cached_property
    def likelihood(self) -> Likelihood:
        how = dict(dtype=self.dtype, rows=self.rows, max_tokens=self.max_tokens)
        return Likelihood(self.path, self.config, self.mesh, **how)

    @cached_property
    def engine(self):
        """(the engine, its copy of the weights)."""
        how = dict(slots=self.slots, max_tokens=self.max_tokens, dtype=self.dtype)
        engine = make_engine(self.config, self.mesh, **how)
        return engine, engine.place(self.likelihood.params)

    # --- what lm_eval asks for ------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.words.eos

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text that nothing else stands before."""
        return self.words.eos if self.words.bos is None else self.words.bos

    @property
    def tokenizer_name(self) -> str:
        return self.path.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        ids = self.words.encode_rendered(string)
        bos = self.words.bos
        if bos is None or add_special_tokens is False or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self.scored([(context, target) for _, context, target in requests])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts after BOS; where a text is longer than the model sees,
        each window predicts what the last one did not."""
        windows, whose = [], []
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            how = dict(prefix_token=self.prefix_token_id, max_seq_len=self.max_tokens)
            for pair in get_rolling_token_windows(ids, **how, context_len=1):
                windows.append(make_disjoint_window(pair))
                whose.append(i)
        out = np.zeros(len(requests))
        np.add.at(out, whose, [logp for logp, _ in self.scored(windows)])
        return out.tolist()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations, up to the first of the texts in `until`; of a model that refines, of what
        the task is to read of it."""
        if self.reads == "all":
            asked = [self.request(*r.args, index=i) for i, r in enumerate(requests)]
            return [done.text for done in self.continued("lm_eval: texts", asked)]
        texts = self.first_answers(requests)
        if self.reads == "refinement":
            texts = self.refined(requests, texts)
        return [_until(text, _stops(r.args[1])) for text, r in zip(texts, requests)]

    def first_answers(self, requests: Sequence[Any]) -> list[str]:
        """What the model says before its feedback."""
        changed = {"max_gen_toks": self.refine_tokens, "until": [stop_of(self.leave_out)]}
        asked = [
            self.request(r.args[0], {**r.args[1], **changed}, index=i)
            for i, r in enumerate(requests)
        ]
        return [done.text.rstrip() for done in self.continued("lm_eval: answers", asked)]

    def refined(self, requests: Sequence[Any], first: Sequence[str]) -> list[str]:
        """The model's refinements of its first answers, and these where none can be read."""
        begun_turns = [
            encode_pieces(self.words, r.args[0], begun(y, self.leave_out))[0]
            for r, y in zip(requests, first)
        ]
        room = self.max_tokens - self.refine_tokens
        how = dict(sampling=GREEDY, stop_ids=self.stop_ids)
        asked = [Request(ids[-room:], self.refine_tokens, **how) for ids in begun_turns]
        said = [
            Missing(CUT_OFF) if done.finish == "length" else own_critique(done.text, self.leave_out)
            for done in self.continued("lm_eval: refinements", asked)
        ]
        unread = sum(isinstance(s, Missing) for s in said)
        print(f"lfjax: {unread} of {len(said)} refinements not read; the first answer is scored.")
        if trimmed := sum(len(ids) > room for ids in begun_turns):
            print(f"lfjax: {trimmed} of {len(said)} texts lost their start before refinement.")
        return [y if isinstance(s, Missing) else s.refinement for s, y in zip(said, first)]

    def continued(self, title: str, asked: Sequence[Request]) -> list[Completion]:
        """Each request's completion."""
        engine, params = self.engine
        found: dict[int, Completion] = {}
        with progress(title, done=0, total=len(asked), unit="text") as bar:
            for i, done in generate(engine, params, asked, self.words):
                found[i] = done
                bar.update(1)
        return [found[i] for i in range(len(asked))]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return template_text(self.template, self.path) if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as a text; without `add_generation_prompt` its last message has only
        begun, and the text ends in it."""
        said = [Message(m["role"], m["content"]) for m in chat_history]
        begun = "" if add_generation_prompt else self.words.plain(said.pop().content)
        template = template_text(self.template, self.path)
        return render_prompt(template, said, tokenizer=self.words) + begun

    # --- how it is done -------------------------------------------------------------------------

    def checked_reads(self, self_refine: str) -> str:
        """What a task reads. Raises: UserError for settings of refinement that make no sense."""
        if self_refine not in READS:
            known = ("true", "first", "false")
            raise UserError(f"self_refine={self_refine}. {nearest(self_refine, known)}")
        reads = READS[self_refine]
        check_refines(self.leave_out)
        if self.leave_out and reads == "all":
            raise UserError(
                f"leave_out={self.leave_out} is for models that refine their answers; set "
                "self_refine=true, or first."
            )
        if reads != "all" and not 0 < self.refine_tokens < self.max_tokens:
            raise UserError(
                f"refine_tokens={self.refine_tokens}: expected at least 1, and less than the "
                f"{self.max_tokens} tokens that the model sees."
            )
        return reads

    def scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """(log-probability, whether it is what greedy decoding gives) of each target after its
        context, in tokens. A context that is too long loses its start.

        Raises: UserError for a target that is longer than what the model sees.
        """
        prefix = [self.prefix_token_id]
        return self.likelihood([(c or prefix, t) for c, t in pairs], "lm_eval: scores")

    def request(self, context: str, settings: Mapping[str, Any], *, index: int) -> Request:
        """A task's request as the sampler wants it. Greedy unless a temperature is given.

        Raises: UserError for settings that leave no room for the context.
        """
        limit = next((int(settings[k]) for k in LIMITS if settings.get(k) is not None), NEW_TOKENS)
        if not 0 < limit < self.max_tokens:
            raise UserError(
                f"max_gen_toks={limit}: expected at least 1, and less than the "
                f"{self.max_tokens} tokens that the model sees; --gen_kwargs max_gen_toks=N."
            )
        rules = {k: settings[k] for k in SAMPLING if settings.get(k) is not None}
        rules["temperature"] = float(rules.get("temperature", 0.0))
        if settings.get("do_sample") is False:
            rules["temperature"] = 0.0
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return Request(
            ids[-(self.max_tokens - limit) :],
            limit,
            Sampling(**rules),
            seed=index,
            stop_ids=self.stop_ids,
            stop=_stops(settings),
        )

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """EOS, and what the chat template ends an answer with, where there is one."""
        try:
            turn = speaking(self.words, template_text(self.template, self.path)).eos
        except UserError:
            turn = self.words.eos
        return tuple({self.words.eos, turn})


def _stops(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that a task's answer ends before."""
    until = settings.get("until") or ()
    return tuple(u for u in ((until,) if isinstance(until, str) else until) if u)


def _until(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    return text[: min((at for s in stops if (at := text.find(s)) >= 0), default=len(text))]


def main() -> None:
    """lm_eval's own command line, with this backend in its registry."""
    import lm_eval.models  # noqa: F401  (its own backends, which it adds to an empty registry only)
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=TARGET)
    try:
        cli_evaluate()
    except UserError as error:
        print(f"lfjax: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
