"""Stages that measure: evaluations, monitors, gates and claims."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lfjax.errors import UserError, nearest
from lfjax.methods import get_method
from lfjax.recipe.settings import answering, with_settings
from lfjax.stages.evaluate import MODES


def evaluate(
    mode: str,
    *,
    systems: dict[str, str | tuple[str, ...] | dict[str, Any] | None],
    data: ConfigDict,
    init: ConfigDict | str | None = None,
    **settings: Any,
) -> ConfigDict:
    """A stage that scores systems on the same prompts, and compares them.

    Args:
      mode: a name of `lfjax.stages.evaluate.MODES` (docs/evaluate.md).
      systems: by a name of one's own, an earlier stage or a file of Records with responses, or one
        for every seed; None where it is given on the command line; or a dict of `path` and of the
        `field` that is evaluated of this system.
      data: the recipe's data block: its template for a model that judges, and the references of
        `rouge`.
      init: as for `judge`.
      **settings: any of the values below.

    Raises: UserError for a mode or a setting that there is not.
    """
    if mode not in MODES:
        raise UserError(f"evaluate: unknown mode '{mode}'. {nearest(mode, MODES)}")
    c = ConfigDict(
        {
            "kind": "evaluate",
            "mode": mode,
            "systems": {
                name: source
                if isinstance(source, dict)
                else {"path": placeholder(str) if source is None else source}
                for name, source in systems.items()
            },
            "data": data,
            "field": "response",  # or refinement, where a record has one
            "baseline": "",  # a system that the others are compared with; a judge compares every
            # two where there is none
            "on_missing": "stop",  # where an answer is missing; or count, or empty (truth alone)
            "resamples": 2000,  # of the bootstrap
            "alpaca_eval": False,  # write AlpacaEval's files of outputs
            "reference": "refinement",  # of rouge; or chosen, or meta.NAME
            "rule": "",  # package.module:function, where the mode is `rule`
            "rule_options": ConfigDict(),  # of that function
            "question": "",  # path of a .jinja file instead of the judge's own template
            **answering(temperature=0.0, max_new_tokens=1024),
        }
    )
    c.init = init or ""
    return with_settings(f"evaluate('{mode}')", c, settings)


def detect(*, data: ConfigDict, init: ConfigDict | str, **settings: Any) -> ConfigDict:
    """A stage that shows what CUT would blame before it learns anything (docs/cut.md).

    Args:
      data: judged responses: the recipe's data block, or `of_stage`.
      init: the recipe's model block, or the name of an earlier stage.
      **settings: any of the values below, or any option of `cut`.

    Raises: UserError for a setting that is neither.
    """
    c = ConfigDict(
        {
            "kind": "detect",
            "options": dict(get_method("cut").options),
            "data": data,
            "dtype": "float32",  # of the computation, or bfloat16
            "batch_rows": 8,
            "row_tokens": 4096,
            "max_tokens": 2048,
            "blame_records": 32,  # on the page
        }
    )
    c.init = init
    return with_settings("detect", c, settings)


def self_bias(*, data: ConfigDict, truth: str = "", among: str = "") -> ConfigDict:
    """A stage that asks how far a model's scores of its own text can be trusted.

    Args:
      data: records with scored refinements, or scored sides of preferences.
      truth: `oracle` in the lab, where it is known.
      among: a stage with all sides of preferences, those that could not be scored among them.
    """
    return ConfigDict({"kind": "self_bias", "data": data, "truth": truth, "among": among})


def rank(*, data: ConfigDict, reward: str) -> ConfigDict:
    """A stage that keeps the response to each prompt that a reward model scores best.

    Args:
      data: several responses to each prompt (`generate(samples=n)`).
      reward: a stage that trained one with the method `reward`.
    """
    return ConfigDict({"kind": "rank", "data": data, "reward": reward, "dtype": "float32"})


def gaps(*, gap: str, systems: dict[str, str], truth: bool = False) -> ConfigDict:
    """A stage that looks at a gap reward on improved responses (docs/pit.md).

    Args:
      gap: a stage that trained one.
      systems: by a name of one's own, stages or files of improved Records.
      truth: compare with the oracle of the lab.
    """
    paths = {name: {"path": source} for name, source in systems.items()}
    given = {"kind": "gaps", "gap": gap, "systems": paths, "truth": truth, "dtype": "float32"}
    return ConfigDict(given)


def gate(
    evaluation: str | tuple[str, ...],
    value: tuple[str, ...],
    *,
    less: tuple[str, ...] = (),
    at_least: float,
) -> ConfigDict:
    """A stage that compares a number of an evaluation with a bound that claims need.

    Args:
      evaluation: name of a stage that writes `results`, or of several: then their mean counts.
      value: keys that lead to the number, as ("systems", "improver", "scores", "right", "mean").
      less: of another one that is taken from it.
    """
    given = dict(evaluation=evaluation, value=value, less=less, at_least=at_least)
    return ConfigDict({"kind": "gate", **given})


def claims(
    path: str, *, evaluations: tuple[str, ...], gate: str = "", publish: str = ""
) -> ConfigDict:
    """A stage that judges claims by what evaluations found.

    Args:
      path: a JSON file, a list of `lfjax.evaluation.claims.Claim`.
      evaluations: names of evaluate stages.
      gate: name of a gate stage; where it fails, no claim is testable.
      publish: what it comes to is also written to this path with .json and .md.
    """
    given = dict(path=path, evaluations=evaluations, gate=gate, publish=publish)
    return ConfigDict({"kind": "claims", **given})
