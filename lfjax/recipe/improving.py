"""Stages in which responses are improved (PIT; Wang et al. 2024, arXiv 2310.00898; docs/pit.md)."""

from typing import Any

from ml_collections import ConfigDict

from lfjax.recipe.blocks import of_stage
from lfjax.recipe.collecting import filter_, generate, improve

STEPS = 5  # of improvement, at most
BEST_AT = {"pit": 0.4, "self_refine": 0.8}  # temperatures, section 4.5


def inference(
    c: ConfigDict,
    prompts: ConfigDict,
    answers: dict[str, Any],
    *,
    improvers: tuple[str, ...] = ("hard",),
    temperatures: tuple[float, ...] = (),
) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """(stages, systems by their stage): the policy's answers, and what becomes of them in steps of
    the last improver, at 0.4, and by the policy's own feedback, at 0.8: where each is best in the
    paper. Both also once at other temperatures (section 4.5), and other improvers once."""
    stages = {"original": generate(data=prompts, init="policy_rl", temperature=1.0, **answers)}
    systems = {"original": "original"}

    def tried(name: str, steps: int = 1, **how) -> None:
        stages[name] = improve(data=of_stage(c.data, "original"), steps=steps, **how, **answers)
        if steps == 1:
            systems[name] = name
        else:
            outputs = [*(f"step{k}" for k in range(1, steps)), "records"]
            systems.update({f"{name}_{k}": f"{name}/{o}" for k, o in enumerate(outputs, 1)})

    pit = dict(init=improvers[-1])
    self_refine = dict(by="self_refine", init="policy_rl")
    cold, warm = BEST_AT["pit"], BEST_AT["self_refine"]
    for name in improvers[:-1]:
        tried(f"by_{name}", init=name, temperature=cold)
    tried(f"by_{improvers[-1]}", STEPS, temperature=cold, **pit)
    tried("self_refined", STEPS, temperature=warm, **self_refine)
    for t in temperatures:
        if t != cold:
            tried(f"at_{round(100 * t):03d}", temperature=t, **pit)
        if t != warm:
            tried(f"self_at_{round(100 * t):03d}", temperature=t, **self_refine)
    return stages, systems


def led_astray(
    c: ConfigDict, of: str, improver: str, answers: dict[str, Any], names: tuple[str, str]
) -> dict[str, ConfigDict]:
    """Is what is improved used at all? Shown the response to another prompt, an improver that does
    is worse.

    Args:
      of: stage of the responses.
      names: of the stages that exchange and improve them.
    """
    others, astray = names
    how = dict(init=improver, temperature=BEST_AT["pit"], **answers)
    return {
        others: filter_("exchanged", data=of_stage(c.data, of)),
        astray: improve(data=of_stage(c.data, others), **how),
    }
