"""The rl stage: draw prompts, sample responses, reward them, and move the policy towards the better
ones, while it stays near a frozen reference.   g prompts of a step, k responses to each, n = g·k, r
tokens of the longest, b rows, t tokens of a row.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from lfjax import processes
from lfjax.data.load import load_records, malformed, told
from lfjax.data.mixture import data_inputs
from lfjax.data.rollouts import Rollouts, padded
from lfjax.data.templates import export_text, speaking, template_text
from lfjax.data.tokenize import load_tokenizer, tokenizer_files
from lfjax.errors import UserError
from lfjax.generation.engine import make_engine
from lfjax.methods import get_estimator
from lfjax.models.config import ModelConfig, read_hf_config
from lfjax.models.flops import train_flops
from lfjax.models.hf import save_hf, stored_dtype
from lfjax.processes import StopSignal
from lfjax.sharding import BATCH, axis_size, put
from lfjax.stages.artifacts import Result, Stage
from lfjax.stages.monitors import alarm, kl_of, of_gaps, of_monitor, of_policy, of_rewards, of_texts
from lfjax.stages.policy import make_policy, make_rows, measure
from lfjax.stages.rewards import Source, monitors, open_source, reward_inputs, total, values_of
from lfjax.stages.rollouts import Draw, Kept, Rollout, make_tasks, sample
from lfjax.stages.train import is_due
from lfjax.stages.trainable import check_model
from lfjax.training.checkpoint import Checkpoints
from lfjax.training.logs import MetricLog, progress
from lfjax.training.optimizer import in_steps, make_optimizer, make_schedule, warmup
from lfjax.training.step import (
    abstract_state,
    batch_shardings,
    jit_train_step,
    make_train_step,
    new_state,
)

LAST = 0.1  # of the steps, over which headline numbers are means


def inputs(config) -> dict[str, str]:
    """What the stage reads: prompts, the policy, the reference, and the models that reward."""
    models = {}
    for role, given in (("init", config.init), ("kl_to", config.kl_to)):
        models[role] = given if isinstance(given, str) else given.path
        if not models[role]:
            raise UserError(f"{role}: no model; give --config.model.path=DIR, or a stage's name.")
    adapter = {"adapter": config.lora.adapter} if config.lora.adapter else {}
    return {
        **data_inputs(config.data),
        **models,
        **adapter,
        **reward_inputs(config.rewards),
        **reward_inputs(monitors(config)),
    }


def rl(stage: Stage) -> Result:
    """Train a policy on rewards, from the stage's last checkpoint if there is one."""
    c, mesh, source = stage.config, stage.mesh, stage.inputs["init"]
    estimator = get_estimator(c.estimator)
    options = estimator.checked(c.options.to_dict())
    check_sizes(c)

    # --- prompts ------------------------------------------------------------------------------
    template = template_text(c.data.template, source)
    tokenizer = speaking(load_tokenizer(source), template)
    draw, every, last = make_draw(stage, tokenizer, template)

    # --- policy, reference, sampler -----------------------------------------------------------
    raw = read_hf_config(source)
    config = ModelConfig.from_hf(raw, source)
    check_model(config, c, tokenizer, mesh, source)
    policy = make_policy(stage, config, exact=options["kl"] == "exact")
    frozen = policy.frozen
    sizes = dict(slots=c.slots, max_tokens=c.max_tokens, dtype=c.rollout_dtype)
    engine = make_engine(config, mesh, **sizes)
    drawing = {name: c[name] for name in ("samples", "temperature", "max_new_tokens")}

    # --- rewards ------------------------------------------------------------------------------
    how = dict(policy=source, improves=bool(c.reference))
    sources = [open_source(stage, name, c.rewards[name], **how) for name in c.rewards]
    watched = [open_source(stage, name, block, **how) for name, block in monitors(c).items()]

    # --- state: restored or new ---------------------------------------------------------------
    o, updates = c.optimizer, c.mini_batches * c.passes
    schedule = make_schedule(
        o.learning_rate,
        last * updates,
        warmup_steps=every["warmup"] * updates,
        decay=o.decay,
        final_fraction=o.final_fraction,
    )
    rates = np.asarray(jax.vmap(schedule)(np.arange(last * updates)), np.float32)
    tx = make_optimizer(o)
    abstract = abstract_state(policy.model.abstract, tx, mesh)
    state_shardings, held = jax.tree.map(lambda x: x.sharding, (abstract, frozen))
    checkpoints = Checkpoints(stage.folder / "checkpoints", keep=c.keep)
    done, before = processes.decide(checkpoints.latest) or 0, 0.0
    if done:
        state, before = checkpoints.restore(done, abstract), checkpoints.meta(done)["seconds"]
        print(f"  continuing after step {done} of {last}", flush=True)
    else:
        state = new_state(policy.model.fresh(), tx, state_shardings)

    # --- the update ---------------------------------------------------------------------------
    def loss_fn(trained, batch, frozen, key):
        return estimator.loss(*policy.outputs(trained, batch.rows, frozen), batch, **options)

    step_fn = make_train_step(loss_fn, tx, c.micro_batches)
    shapes = batch_shardings(Rollouts.empty(1, 1), mesh)
    train_step = jit_train_step(step_fn, state_shardings, shapes, mesh, held, c.compiler_options)

    # --- loop ---------------------------------------------------------------------------------
    start = time.monotonic() - before
    meta = {
        "fingerprint": stage.fingerprint,
        "config": raw,
        "template": template,
        "tokenizer": tokenizer_files(source),
    }
    stage.begin()
    kept, log = Kept(stage.folder, stage.name), MetricLog(stage.folder, resume_step=done)
    history = read_log(stage.folder)
    with StopSignal() as stop, progress(stage.name, done=done, total=last) as bar:
        for step in range(done + 1, last + 1):
            clock = Clock()

            # rollouts, by the sampler, on the policy's weights as they are now
            tasks = draw.step(step)
            rollouts = kept.read(step, tasks)
            if rollouts is None:
                placed = engine.place(policy.whole(state.params, frozen))
                seed = (stage.seed, step)
                rollouts = sample(engine, placed, tokenizer, tasks, seed=seed, **drawing)
                del placed  # a second copy of the weights
                kept.write(step, rollouts)
            clock.lap("rollout")

            # rewards, and what those think of it who are not learned from
            values, backwards, opinions = scores(
                stage, sources, watched, rollouts, kept.path(step), step
            )
            kept.write(step, rollouts, values)
            rewards = total(sources, values, rollouts, c.missing_eos_penalty)
            clock.lap("score")

            # log-probabilities under policy and reference, by the trainer; advantages
            packed = make_rows(c, rollouts, axis_size(mesh, BATCH) * c.micro_batches)
            columns = measure(policy, state.params, packed, mesh, c.max_new_tokens)
            logp, ref_logp = columns["logp"], columns["ref_logp"]
            mask = padded([np.ones(len(r.ids)) for r in rollouts], c.max_new_tokens)
            kl = kl_of(columns, options["kl"])
            tokens = (jnp.asarray(x).reshape(c.prompts, c.samples, -1) for x in (kl, mask))
            advantage = estimator.advantages(jnp.asarray(rewards), *tokens, **options)
            advantage = np.asarray(advantage).reshape(mask.shape)

            # the update
            batches = [
                Rollouts(p.rows, *(p.scatter(x[part]) for x in (logp, ref_logp, advantage)))
                for part, p in packed
            ]
            number, learned = (step - 1) * updates, []
            for batch in batches * c.passes:
                batch, rate = put(batch, mesh, P(BATCH)), put(rates[number], mesh, P())
                with jax.transfer_guard("disallow"):
                    state, metrics = train_step(state, batch, rate, frozen, None)
                learned.append(metrics)
                number += 1
            learned = means(stage, step, learned, kept.path(step))
            clock.lap("update")

            # what is told of it
            sampled = padded([r.logps for r in rollouts], c.max_new_tokens)
            history.append(
                {
                    "step": step,
                    **of_rewards(rollouts, values, rewards, sources),
                    **of_monitor(opinions, rewards),
                    **of_gaps(rollouts, values, backwards),
                    **of_policy(columns, mask, sampled),
                    **of_texts(rollouts),
                    **learned,
                    "learning_rate": float(rates[number - 1]),
                    **totals(history, rollouts, config, c.passes),
                    **clock.seconds,
                    "seconds": round(time.monotonic() - start, 3),
                }
            )
            report(stage, history, log, bar)
            stopping = stop.after(step)
            if is_due(step, every["save"]) or step == last or stopping:
                checkpoints.save(step, state, {**meta, "seconds": time.monotonic() - start})
            if stopping and step < last:
                checkpoints.close()
                print(f"\nstopped after step {step}; the same command continues.", flush=True)
                raise SystemExit(128 + stopping)
    log.close()
    checkpoints.close()

    # --- export -------------------------------------------------------------------------------
    dtype = c.export_dtype or stored_dtype(source)
    params = policy.model.merged(state.params, stage.folder / "adapter")
    chat = export_text(template, tokenizer)
    save_hf(stage.folder / "hf", params, config, raw, tokenizer, chat, dtype=dtype)
    kept.merge(stage.folder / "records.jsonl", last)
    if processes.index():
        return Result({}, {}, {})  # the log is process 0's
    return summary(history, time.monotonic() - start)


# --- parts of the stage -----------------------------------------------------------------------


def check_sizes(c) -> None:
    """Raises: UserError for sizes that do not go together."""
    if c.samples < 2 or c.prompts < 1 or c.passes < 1:
        raise UserError(
            f"samples={c.samples}, prompts={c.prompts}, passes={c.passes}: expected at least 2 (a "
            "response is compared with the others to its prompt), 1 and 1."
        )
    if c.mini_batches < 1 or c.prompts % c.mini_batches:
        raise UserError(
            f"mini_batches={c.mini_batches} does not divide the {c.prompts} prompts of a step."
        )
    if not c.rewards:
        raise UserError("rewards: none is given; name a reward model's stage, a rule or a judge.")
    if set(monitors(c)) & set(c.rewards):
        raise UserError("rewards.monitor: this is the monitor's; give the reward another name.")
    if c.temperature <= 0:
        raise UserError(f"temperature={c.temperature}: expected more than 0, to draw at random.")
    if c.max_new_tokens < 1 or not c.max_new_tokens < c.max_tokens <= c.row_tokens:
        raise UserError(
            f"max_new_tokens={c.max_new_tokens}, max_tokens={c.max_tokens}, row_tokens="
            f"{c.row_tokens}: expected a response to be shorter than prompt and response together, "
            "and these to fit a row."
        )


def make_draw(stage: Stage, tokenizer, template) -> tuple[Draw, dict[str, int], int]:
    """What every step asks, the intervals in steps, and the number of steps."""
    c = stage.config
    loaded = load_records(c.data, stage.inputs, stage.seed)[0]
    tasks, counts, skipped = make_tasks(loaded.records, tokenizer, template, c)
    what = "responses to improve" if c.reference else "prompts"
    print(f"  {what}: {len(tasks)} of {len(loaded.records)} records; left out: ", end="")
    print(told(loaded.dropped + counts), flush=True)
    for line in malformed([*loaded.skipped, *skipped]):
        print(f"  {line}", flush=True)
    if not tasks:
        raise UserError(
            f"no prompt is left to answer: {told(counts)}. Raise max_tokens or "
            "max_reference_tokens, or give other data."
        )
    unit = dict(epoch_steps=-(-len(tasks) // c.prompts), epoch_examples=len(tasks))
    last = in_steps(c, "total", **unit)
    if not last:
        raise UserError("none of total_steps, total_epochs and total_examples is set.")
    every = {"save": in_steps(c, "save", **unit), "warmup": warmup(c.optimizer, last, **unit)}
    return Draw(tasks, c.prompts, stage.seed), every, last


def scores(
    stage: Stage,
    sources: list[Source],
    watched: list[Source],
    rollouts: list[Rollout],
    kept: Path,
    step: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[np.ndarray]]:
    """(values by source, those of gap rewards the other way round and those of the monitor, each
    where they are due).

    Raises: UserError where a source fails or gives what is no number.
    """
    c = stage.config
    turns = [s for s in sources if s.compares and is_due(step, c.antisymmetry_steps)]
    asked = watched if is_due(step, c.monitor_steps) else []
    try:
        return (
            {s.name: values_of(s, rollouts, c.samples) for s in sources},
            {s.name: values_of(s, rollouts, c.samples, backwards=True) for s in turns},
            [values_of(s, rollouts, c.samples) for s in asked],
        )
    except UserError as error:
        raise UserError(
            f"stage '{stage.name}', step {step}: {error} What was sampled is kept in {kept}; the "
            "same command goes on from there."
        ) from None


def means(stage: Stage, step: int, updates: list[dict[str, Any]], kept: Path) -> dict[str, float]:
    """Of all updates of a step.

    Raises: UserError where one of them was not finite, and so was not made.
    """
    updates = jax.device_get(updates)
    out = {
        name: float(sum((u[name] for u in updates[1:]), updates[0][name])) for name in updates[0]
    }
    if out.pop("finite") < 1:
        raise UserError(
            f"stage '{stage.name}': loss {out['loss']} and gradient norm {out['grad_norm']} at "
            f"step {step} are not finite; the update was not made. What was sampled is in {kept}, "
            f"the last good checkpoint in {stage.folder / 'checkpoints'}. Lower "
            "optimizer.learning_rate, or look at the rewards."
        )
    return out


def totals(
    history: list[dict[str, Any]], rollouts: list[Rollout], config: ModelConfig, passes: int
) -> dict[str, Any]:
    """Since the first step: prompts, tokens of prompts and responses, and the arithmetic of drawing
    them (as much as a forward pass), of two more forward passes, and of learning."""
    before = history[-1] if history else {}
    lengths = [len(r.task.ids) + len(r.ids) for r in rollouts]
    now = {
        "examples": len({id(r.task) for r in rollouts}),
        "tokens": sum(lengths),
        "model_flops": train_flops(config, lengths) * (passes + 1),
    }
    return {name: before.get(name, 0) + value for name, value in now.items()}


def report(stage: Stage, history: list[dict[str, Any]], log: MetricLog, bar) -> None:
    """Log the last step, sound the alarm when it begins, and move the live line."""
    row, window = history[-1], stage.config.alarm_steps
    if "monitor" in row:
        row["alarm"] = float(alarm(history, window))
        rang = next((r["alarm"] for r in history[-2::-1] if "alarm" in r), 0.0)
        if row["alarm"] > rang:
            bar.write(
                f"  WARNING: step {row['step']}: the reward rises while the monitor falls. The "
                "policy has found what the reward model gets wrong: stop, raise beta, or train the "
                "reward model on new rollouts (records.jsonl)."
            )
    log.write(row["step"], {k: v for k, v in row.items() if k != "step" and np.isfinite(v)})
    shown = {"reward": "reward", "kl": "kl_k1", "length": "length"}
    bar.set_postfix({k: f"{row[name]:.3g}" for k, name in shown.items()}, refresh=False)
    bar.update(row["step"] - bar.n)


class Clock:
    """Seconds of the parts of a step."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.then = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[f"seconds_{name}"] = round(now - self.then, 4)
        self.then = now


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; on process 0 alone, which writes it."""
    if processes.index():
        return []
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def summary(history: list[dict[str, Any]], seconds: float) -> Result:
    """Headline numbers are means over the last tenth of the steps."""
    rows = history[-max(1, round(LAST * len(history))) :]
    names = ("reward", "kl_k1", "length", "eos", "copied", "monitor", "agreement", "antisymmetry")
    headline = {"steps": len(history)}
    for name in names:
        values = [row[name] for row in rows if np.isfinite(row.get(name, np.nan))]
        if values:
            headline[name] = float(np.mean(values))
    headline["alarms"] = int(sum(row.get("alarm", 0.0) for row in history))
    cost = {name: history[-1][name] for name in ("tokens", "model_flops")}
    outputs = {"model": "hf", "records": "records.jsonl"}
    return Result(outputs, headline, {**cost, "seconds": round(seconds, 1)})
