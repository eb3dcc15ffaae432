"""The train stage: data, model and shardings, state, step, loop, export."""

import json
import time
from collections import deque
from collections.abc import Sequence
from functools import cache

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lfjax import processes
from lfjax.data.load import Batches, describe, encode, eos_share, load_records
from lfjax.data.mixture import data_inputs
from lfjax.data.plan import make_plan
from lfjax.data.rows import Rows
from lfjax.data.templates import export_text, speaking, template_text
from lfjax.data.tokenize import load_tokenizer, tokenizer_files
from lfjax.errors import UserError, nearest
from lfjax.losses import Total
from lfjax.methods import get_method
from lfjax.methods.method import Method
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.flops import train_flops
from lfjax.models.hf import save_hf, stored_dtype
from lfjax.models.scalar import apart, head_files
from lfjax.processes import StopSignal
from lfjax.sharding import BATCH, axis_size, put
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.blame import make_blame
from lfjax.stages.own_words import check_own
from lfjax.stages.reference import with_reference
from lfjax.stages.scoring import calibrated
from lfjax.stages.trainable import check_model, make_trainable
from lfjax.training.alarms import Alarms
from lfjax.training.checkpoint import Checkpoints
from lfjax.training.logs import MetricLog, progress
from lfjax.training.optimizer import in_steps, make_optimizer, make_schedule, warmup
from lfjax.training.profile import Profile
from lfjax.training.step import (
    abstract_state,
    batch_shardings,
    jit_eval_step,
    jit_train_step,
    make_train_step,
    new_state,
)

SPEED_STEPS = 20  # tokens/s is that of so many steps: evaluations and saves stand between some


def inputs(config) -> dict[str, str]:
    """What the stage reads: the records, and a model directory or the name of an earlier stage."""
    init = config.init if isinstance(config.init, str) else config.init.path
    data = data_inputs(config.data)
    if init is None:
        raise UserError(
            "model.path is not set: give a model directory or a hub id, --config.model.path=DIR."
        )
    adapter = {"adapter": config.lora.adapter} if config.lora.adapter else {}
    return {**data, "init": init, **adapter}


def train(stage: Stage) -> Result:
    """Train a model with a method, from the stage's last checkpoint if there is one."""
    c, mesh, source = stage.config, stage.mesh, stage.inputs["init"]
    method = get_method(c.method)
    options = method.checked(c.options.to_dict())

    # --- data ---------------------------------------------------------------------------------
    template = template_text(c.data.template, source)
    tokenizer = speaking(load_tokenizer(source), template)
    batches, heldout, every = make_data(stage, method, options, tokenizer, template)

    # --- model and shardings ------------------------------------------------------------------
    raw = read_hf_config(source)
    config = ModelConfig.from_hf(raw, source)
    check_model(config, c, tokenizer, mesh, source)
    model = make_trainable(stage, config, scalar=method.scores)
    frozen = model.frozen

    def loss_fn(trained, rows, frozen, key):
        return method.loss(model.logprobs(trained, rows, frozen, key), rows, **options)

    # --- state: restored or new ---------------------------------------------------------------
    o = c.optimizer
    schedule = make_schedule(
        o.learning_rate,
        batches.plan.steps,
        warmup_steps=every["warmup"],
        decay=o.decay,
        final_fraction=o.final_fraction,
    )
    rates = np.asarray(jax.vmap(schedule)(np.arange(batches.plan.steps)), np.float32)
    tx = make_optimizer(o)
    abstract = abstract_state(model.abstract, tx, mesh)
    state_shardings, frozen_shardings = jax.tree.map(lambda x: x.sharding, (abstract, frozen))
    checkpoints = Checkpoints(stage.folder / "checkpoints", keep=c.keep, best=c.best)
    done, before = processes.decide(checkpoints.latest) or 0, 0.0
    evaluated: list[float] = []  # what `best` names, at every evaluation
    fresh = cache(model.fresh)  # for the reference and for the state, which uses it up
    if method.needs_reference(**options):
        parts = {"train": batches} | ({"heldout": heldout} if heldout else {})
        parts = with_reference(stage, parts, model.logprobs, lambda: (fresh(), frozen))
        batches, heldout = parts["train"], parts.get("heldout")
    if done:
        state, told = checkpoints.restore(done, abstract), checkpoints.meta(done)
        before, evaluated = told["seconds"], told.get("evaluated", [])
        print(f"  continuing after step {done} of {batches.plan.steps}", flush=True)
    else:
        state = new_state(fresh(), tx, state_shardings)
    del fresh  # when continuing, it may hold the start of the model

    # --- the step -----------------------------------------------------------------------------
    rows_sharding = batch_shardings(Rows.empty(1, 1), mesh)
    step_fn = make_train_step(loss_fn, tx, c.micro_batches)
    train_step = jit_train_step(
        step_fn, state_shardings, rows_sharding, mesh, frozen_shardings, c.compiler_options
    )
    eval_step = jit_eval_step(
        loss_fn, state_shardings.params, rows_sharding, mesh, frozen_shardings
    )
    everywhere = NamedSharding(mesh, P())
    key = jax.jit(lambda: jax.random.key(stage.seed), out_shardings=everywhere)()
    blame = make_blame(
        stage,
        options,
        batches,
        heldout,
        tokenizer,
        lambda both, rows: model.logprobs(both[0], rows, both[1]),
        (abstract.params, frozen),
    )
    if c.best:
        known = [
            f"heldout/{n}"
            for n in jax.eval_shape(eval_step, abstract.params, batches.rows(0), frozen)
        ]
        if c.best not in known:
            raise UserError(f"best: unknown metric '{c.best}'. {nearest(c.best, known)}")

    # --- loop ---------------------------------------------------------------------------------
    start = time.monotonic() - before
    meta = {
        "fingerprint": stage.fingerprint,
        "config": raw,
        "template": template,
        "tokenizer": tokenizer_files(source),
    }
    stage.begin()
    log = MetricLog(stage.folder, resume_step=done)
    alarms = Alarms(method.alarm, stage.folder / "metrics.jsonl")
    reporter = Reporter(stage, batches, rates, checkpoints, log, alarms, start)
    last = batches.plan.steps
    pending = None
    profiling = Profile(stage.folder / "profile", c.profile_first_step, c.profile_steps)
    with StopSignal() as stop, progress(stage.name, done=done, total=last) as bar, profiling:
        for step in range(done + 1, last + 1):
            if gave_up(evaluated, c.patience):
                print(
                    f"\n  ends at step {step - 1}: no better {c.best} for {c.patience} evaluations"
                )
                last = step - 1
                break
            profiling(step, state)
            rows = put(batches.rows(step - 1), mesh, P(BATCH))
            rate = put(rates[step - 1], mesh, P())
            with jax.transfer_guard("disallow"):  # a hidden copy in here would stall every step
                state, metrics = train_step(state, rows, rate, frozen, key)
            if pending:  # one step late, so that the host never waits for the step just started
                reporter(bar, *pending)
            pending = (step, metrics)
            stopping = stop.after(step)
            evaluating = every["eval"] and (is_due(step, every["eval"]) or step == last)
            if evaluating or is_due(step, every["save"]) or step == last or stopping:
                scores = {}
                if evaluating:
                    scores = evaluate(eval_step, state.params, frozen, heldout, mesh)
                    evaluated += [scores[c.best]] if c.best else []
                values = reporter(bar, *pending, scores)  # stops here rather than save a bad state
                pending = None
                now = {"seconds": time.monotonic() - start, "evaluated": [*evaluated]}
                checkpoints.save(step, state, meta | now, values)
            if is_due(step, every["blame"]) and step < last:
                blame(step, (state.params, frozen))
            if stopping and step < last:
                checkpoints.close()
                print(f"\nstopped after step {step}; the same command continues.", flush=True)
                raise SystemExit(128 + stopping)
    log.close()
    blame(last, (state.params, frozen))

    # --- export -------------------------------------------------------------------------------
    chosen = checkpoints.best_step()
    if chosen is not None and chosen != last:
        del state  # before its better self is read into memory
        state = checkpoints.restore(chosen, abstract)
    checkpoints.close()
    dtype = c.export_dtype or stored_dtype(source)
    beside, meaning = {}, {}
    if method.scores:
        meaning = calibrated(stage, method, options, heldout, model, state.params)
        beside = head_files(apart(state.params)[1], meaning)
    params = model.merged(state.params, stage.folder / "adapter")
    how = dict(dtype=dtype, beside=beside)
    save_hf(
        stage.folder / "hf", params, config, raw, tokenizer, export_text(template, tokenizer), **how
    )
    if processes.index():
        return Result({}, {}, {})  # the log is process 0's
    told = {k: meaning[k] for k in ("offset", "spread", "antisymmetry") if k in meaning}
    told |= {"alarm_step": alarms.rung} if alarms.rung else {}
    seconds = time.monotonic() - start
    return summary(stage, batches, config, (last, chosen or last), seconds, told)


# --- parts of the stage -----------------------------------------------------------------------


def gave_up(evaluated: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` evaluations were no better than the best one before them."""
    return 0 < patience < len(evaluated) and min(evaluated[-patience:]) >= min(
        evaluated[:-patience]
    )


def make_data(
    stage: Stage, method: Method, options, tokenizer, template
) -> tuple[Batches, Batches | None, dict[str, int]]:
    """Batches to train on, batches to evaluate on, and the intervals in steps."""
    c, views = stage.config, method.views_of(options)
    normalize = method.checked_normalize(c.normalize)
    loaded, kept_out = load_records(c.data, stage.inputs, stage.seed)
    if c.own_pairs and stage.identity:  # the doctor knows no hashes
        check_own(stage, loaded.records)
    encoded = encode(c, loaded.records, views, tokenizer, template)
    how = dict(
        row_tokens=c.row_tokens,
        seed=stage.seed,
        multiple=axis_size(stage.mesh, BATCH) * c.micro_batches,
    )
    sizes = dict(batch_examples=c.batch_examples, batch_rows=c.batch_rows)
    plan = make_plan(encoded.lengths, **sizes, **how)  # one epoch, to know what the units mean
    unit = dict(epoch_steps=plan.epoch_steps, epoch_examples=plan.epoch_examples)
    total = in_steps(c, "total", **unit)
    if not total:
        raise UserError("none of total_steps, total_epochs and total_examples is set.")
    plan = make_plan(encoded.lengths, steps=total, **sizes, **how)
    tables = encoded.most_segments if normalize == "pair" else 0
    batches = Batches(loaded.records, encoded, plan, normalize, tables)
    processes.check_same(batches.digest, f"stage '{stage.name}': the records of {c.data.path}")
    every = {name: in_steps(c, name, **unit) for name in ("eval", "save", "blame")}
    every["warmup"] = warmup(c.optimizer, total, **unit)
    for line in describe(loaded, batches):
        print("  " + line, flush=True)
    ended = eos_share(encoded, tokenizer, template)
    print(f"  responses whose end is learned: {ended:.0%}", flush=True)
    if c.patience and not c.best:
        raise UserError("patience: set best, the metric that has to become better.")
    if not every["eval"]:
        if c.best:
            raise UserError(
                f"best='{c.best}' needs evaluation: set eval_steps, eval_epochs or eval_examples."
            )
        if method.scores and not kept_out:
            raise UserError(
                "a model that scores is calibrated on held-out records: set data.heldout_examples."
            )
        if not kept_out:
            return batches, None, every
    elif not kept_out:
        raise UserError("evaluation needs records: set data.heldout_examples.")
    encoded = encode(c, kept_out, views, tokenizer, template)
    plan = make_plan(encoded.lengths, batch_rows=max(batches.plan.shapes), **how)
    return batches, Batches(kept_out, encoded, plan, normalize, tables), every


def evaluate(eval_step, params, frozen, heldout: Batches, mesh) -> dict[str, float]:
    """Means over all held-out records, named `heldout/…`."""
    sums: dict[str, Total] = {}
    for step in range(heldout.plan.steps):
        for name, total in jax.device_get(
            eval_step(params, put(heldout.rows(step), mesh, P(BATCH)), frozen)
        ).items():
            sums[name] = sums[name] + total if name in sums else total
    return {f"heldout/{name}": float(total) for name, total in sums.items()}


def is_due(step: int, interval: int) -> bool:
    return bool(interval) and step % interval == 0


class Reporter:
    """Fetches a step's metrics, stops the run if they are not finite, logs them, and moves the live
    line."""

    def __init__(
        self,
        stage: Stage,
        batches: Batches,
        rates: np.ndarray,
        checkpoints: Checkpoints,
        log: MetricLog,
        alarms: Alarms,
        start: float,
    ):
        self.alarms = alarms
        self.stage, self.batches, self.rates = stage, batches, rates
        self.checkpoints, self.log, self.start = checkpoints, log, start
        self.examples = np.cumsum(np.diff(batches.plan.first))
        self.tokens = np.cumsum(
            [sum(batches.segment_lengths(s)) for s in range(batches.plan.steps)]
        )
        self.recent: deque[tuple[float, int]] = deque(maxlen=SPEED_STEPS)

    def __call__(
        self, bar, step: int, metrics: dict[str, Total], scores: dict[str, float] | None = None
    ):
        values = {name: float(total) for name, total in jax.device_get(metrics).items()}
        if not values.pop("finite"):
            self.stop(step, values)
        if self.alarms(step, values):
            values["alarm"] = 1.0
        now, tokens = time.monotonic(), int(self.tokens[step - 1])
        values |= scores or {}
        values |= {
            "learning_rate": float(self.rates[step - 1]),
            "examples": int(self.examples[step - 1]),
            "tokens": tokens,
            "seconds": round(now - self.start, 3),
        }
        if self.recent:
            then, before = self.recent[0]
            values["tokens_per_second"] = (tokens - before) / max(now - then, 1e-9)
        self.recent.append((now, tokens))
        if (
            is_due(step, self.stage.config.log_every_steps)
            or scores
            or step == self.batches.plan.steps
        ):
            self.log.write(step, values)
        shown = {"loss": f"{values['loss']:.4f}", "examples": values["examples"]}
        shown["tok/s"] = f"{values.get('tokens_per_second', 0):,.0f}"
        if scores:
            shown["heldout"] = f"{scores['heldout/loss']:.4f}"
        bar.set_postfix(shown, refresh=False)
        bar.update(step - bar.n)
        return values

    def stop(self, step: int, values: dict[str, float]) -> None:
        """Raises: UserError naming the step, its records and the last good checkpoint."""
        self.checkpoints.wait()
        ids = self.batches.record_ids(step - 1)
        good = self.checkpoints.latest()
        kept = (
            f"The last good checkpoint is that of step {good}" if good else "There is no checkpoint"
        )
        raise UserError(
            f"stage '{self.stage.name}': loss {values['loss']} and gradient norm "
            f"{values['grad_norm']} at step {step} are not finite; the update was not made. "
            f"Its records: {', '.join(ids[:20])}{' …' if len(ids) > 20 else ''}. "
            f"{kept} ({self.stage.folder / 'checkpoints'}). "
            "Look at these records, or lower optimizer.learning_rate or the method's weights."
        )


def summary(
    stage: Stage,
    batches: Batches,
    config: ModelConfig,
    ended: tuple[int, int],
    seconds: float,
    more: dict[str, float],
) -> Result:
    """Headline numbers, from the log: a run that was restarted at its very end has no others.
    `ended` says after which step, and which one is exported; `more` is added to the numbers."""
    rows = map(json.loads, (stage.folder / "metrics.jsonl").read_text().splitlines())
    at = {row["step"]: row for row in rows}
    last, chosen = ended
    headline = {"steps": last, "loss": at[last]["loss"], "exported_step": chosen}
    headline |= {k: v for k, v in at[chosen].items() if k.startswith("heldout/")} | more
    lengths = [n for s in range(last) for n in batches.segment_lengths(s)]
    cost = {
        "tokens": sum(lengths),
        "model_flops": train_flops(config, lengths),
        "seconds": round(seconds, 1),
    }
    return Result({"model": "hf"}, headline, cost)
