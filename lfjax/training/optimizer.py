"""AdamW with warm-up and decay, from a config; and the one helper that turns epochs and examples
into steps."""

import math
import re

import jax
import optax

from lfjax.errors import UserError, nearest
from lfjax.sharding import path_str

UNITS = ("steps", "epochs", "examples")
DECAYS = ("constant", "linear", "cosine")
MOMENTS = ("float32", "bfloat16")


def in_steps(config, name: str, *, epoch_steps: int, epoch_examples: int, default: int = 0) -> int:
    """`name_steps`, `name_epochs` or `name_examples` of a config, as a number of steps.

    A unit that is 0 or absent is not set; where none is, the default. A fraction is rounded, to at
    least one step.

    Raises: UserError if two units are set or one is negative.
    """
    found = {unit: config.get(f"{name}_{unit}") for unit in UNITS}
    found = {unit: value for unit, value in found.items() if value}
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(f'{name}_{u}' for u in found)} are both set; set one and 0 for the "
            "others."
        )
    for unit, value in found.items():
        if value < 0:
            raise UserError(f"{name}_{unit}={value}: expected a positive number, or 0 for none.")
        per_unit = {"steps": 1, "epochs": epoch_steps, "examples": epoch_steps / epoch_examples}[
            unit
        ]
        return max(1, round(value * per_unit))
    return default


def warmup(config, total_steps: int, **epoch: int) -> int:
    """Steps of warm-up: `warmup_steps`, `_epochs`, `_examples`, or `warmup_fraction` of all steps,
    rounded up as the Hugging Face trainer does.

    Raises: UserError if two are set, or the fraction is not one.
    """
    steps = in_steps(config, "warmup", **epoch)
    fraction = config.warmup_fraction
    if not 0 <= fraction <= 1 or (fraction and steps):
        raise UserError(
            f"optimizer.warmup_fraction={fraction}: expected 0 to 1, and 0 where the warm-up is "
            "given in another unit."
        )
    return steps or math.ceil(fraction * total_steps)


def make_schedule(
    learning_rate: float,
    total_steps: int,
    *,
    warmup_steps: int,
    decay: str,
    final_fraction: float = 0.0,
) -> optax.Schedule:
    """Update number (from 0) -> learning rate: linear from 0 over the warm-up, then the decay to
    the last step.

    A warm-up longer than the run never ends: the rate rises to the last step (the CUT authors' runs
    are such).
    """
    if decay not in DECAYS:
        raise UserError(f"optimizer.decay: unknown '{decay}'. {nearest(decay, DECAYS)}")
    rest = max(total_steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, final_fraction * learning_rate, rest),
        "cosine": optax.cosine_decay_schedule(learning_rate, rest, alpha=final_fraction),
    }[decay]
    if not warmup_steps:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps]
    )


def make_optimizer(config) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW's direction, which the train step multiplies by the learning
    rate: a rate that is an argument makes one compiled step serve every schedule. Norm scales and
    biases are not decayed. `mu_dtype` is that of the first moment; the second is float32.

    Raises: UserError for a dtype that is not of `MOMENTS`.
    """
    if config.mu_dtype not in MOMENTS:
        raise UserError(
            f"optimizer.mu_dtype: unknown '{config.mu_dtype}'. {nearest(config.mu_dtype, MOMENTS)}"
        )

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda p, _: not re.search(r"(norm/scale|_bias)$", path_str(p)), params
        )

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=config.mu_dtype),
        optax.add_decayed_weights(config.weight_decay, decayed)
        if config.weight_decay
        else optax.identity(),
    )
