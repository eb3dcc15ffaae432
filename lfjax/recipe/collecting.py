"""Stages that make records: answers, judgments, refinements, selections."""

from typing import Any

from ml_collections import ConfigDict

from lfjax.errors import UserError, nearest
from lfjax.recipe.settings import answering, with_settings
from lfjax.stages.filter import FILTERS


def generate(
    *, data: ConfigDict, init: ConfigDict | str | None = None, **settings: Any
) -> ConfigDict:
    """A stage that collects responses to prompts, or refinements of judged responses.

    Args:
      data: the recipe's data block, or `of_stage`.
      init: the recipe's model block or the name of an earlier stage; None where an endpoint is
        asked.
      **settings: any of the values below.

    Raises: UserError for a setting that there is not.
    """
    c = ConfigDict(
        {
            "kind": "generate",
            "data": data,
            # or refinement: of a judged response; or self_refine: a response, and in the same turn
            # the model's own feedback on it and its refinement
            "asks": "response",
            "layout": "turns",  # of a refinement: asked for by a user; or self_refine: SRT's text
            "leave_out": "",  # what the model was taught to leave out of SRT's text
            "refine_tokens": 0,  # at most, of feedback and refinement; 0 for max_new_tokens
            "apart_from": "",  # a stage or file of Records that no drawn prompt may be among
            "part": "train",  # or heldout: the records that data.heldout_examples keeps out
            "examples": 0,  # prompts, drawn by the seed; 0 takes all in their order
            "first_example": 0,  # where in the drawn order this stage begins
            "samples": 1,  # responses to each prompt
            "judgment": "",  # shown before the response, as in training (hindsight's query)
            **answering(temperature=1.0, max_new_tokens=512),
        }
    )
    c.init = init or ""
    return with_settings("generate", c, settings)


def improve(
    *, data: ConfigDict, init: ConfigDict | str | None = None, **settings: Any
) -> ConfigDict:
    """A stage that improves responses step by step (docs/pit.md).

    Args:
      data: the recipe's data block, or `of_stage`; its records have responses.
      init: an improver: the recipe's model block or the name of an earlier stage; with
        `by="self_refine"` any model, and None where an endpoint is asked.
      **settings: any of the values below.

    Raises: UserError for a setting that there is not.
    """
    c = ConfigDict(
        {
            "kind": "improve",
            "data": data,
            "by": "improver",  # or self_refine: the model's own feedback, then a rewrite
            "of": "response",  # or refinement: which text of a record is improved
            "steps": 1,  # each improves what the one before has made
            "part": "train",  # or heldout: the records that data.heldout_examples keeps out
            "examples": 0,  # records, from the start; 0 takes all
            "feedback_question": "",  # of self_refine: .jinja files instead of the shipped ones
            "rewrite_question": "",
            **answering(temperature=0.4, max_new_tokens=512),
        }
    )
    c.init = init or ""
    return with_settings("improve", c, settings)


def judge(
    judge: str, *, data: ConfigDict, init: ConfigDict | str | None = None, **settings: Any
) -> ConfigDict:
    """A stage that collects feedback on responses.

    Args:
      judge: what is asked for, a name of `lfjax.judges.JUDGES` (docs/judges.md), or `rule`.
      data: the recipe's data block, or `of_stage`.
      init: the recipe's model block or the name of an earlier stage, where a local model judges.
      **settings: any of the values below.

    Raises: UserError for a setting that there is not.
    """
    c = ConfigDict(
        {
            "kind": "judge",
            "judge": judge,
            "data": data,
            "rule": "",  # package.module:function, where the judge is `rule`
            "rule_options": ConfigDict(),  # of that function
            "question": "",  # path of a .jinja file instead of the judge's own template
            "keep_feedback": False,  # add to what was said of a response before, not replace it
            "field": "response",  # or refinement: its score becomes that of a candidate
            "leave_out": "",  # of `self`: what the model was taught to leave out of SRT's text
            "expected_score": False,  # of `self`: note the mean of the score's distribution, too
            **answering(temperature=0.0, max_new_tokens=1024),
        }
    )
    c.init = init or ""
    return with_settings(f"judge('{judge}')", c, settings)


def filter_(name: str, *, data: ConfigDict, **options: Any) -> ConfigDict:
    """A stage that applies one of `lfjax.stages.filter.FILTERS` to records, with its options.

    Raises: UserError for a name that is none of them.
    """
    if name not in FILTERS:
        raise UserError(f"filter_: unknown '{name}'. {nearest(name, FILTERS)}")
    own = {"options": options} if options else {}
    return ConfigDict({"kind": "filter", "filter": name, "data": data, **own})


def make(function: str, **options: Any) -> ConfigDict:
    """A stage in which a function of the lab writes its world: `package.module:function`, called as
    (folder, seed=…, **options) -> outputs by name. Later stages read `STAGE/OUTPUT`."""
    return ConfigDict({"kind": "make", "function": function, "options": options})
