"""The collecting stages of SRT alone, for tests."""

from lfjax.recipe import base, filter_, generate, judge, of_stage, recipe


def get_config(arg="collect"):
    c = base(source="records")
    endpoint = dict(url="", model="m", key_env="", concurrency=1, deadline_s=20.0)
    critic = dict(judge="critique", endpoint=endpoint)
    if arg == "apart":
        answers = generate(data=c.data, apart_from="set", max_new_tokens=4, endpoint=endpoint)
        return recipe(c, answers=answers)
    return recipe(
        c,
        critiques=judge(data=c.data, **critic),
        scored=judge(data=of_stage(c.data, "critiques"), field="refinement", **critic),
        kept=filter_("refined", data=of_stage(c.data, "scored"), ties="keep"),
    )
