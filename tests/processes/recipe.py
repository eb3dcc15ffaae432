"""Recipes for several processes, small. `together` and `host` have all kinds of stages: a model,
one or one on every host, answers, a rule judges, CUT learns. `adapters` trains with an evaluation
and a page of blame; `served` asks an endpoint (`--config.stages.answers.endpoint.url=URL`)."""

from pathlib import Path

from lfjax.recipe import base, generate, judge, of_stage, recipe, train

DEMO = Path(__file__).parent.parent.parent / "lfjax" / "lab" / "demo"
SMALL = dict(max_tokens=128, row_tokens=256, learning_rate=3e-3, save_steps=2, total_epochs=0.0)


def get_config(arg="together"):
    c = base(source="records", path=str(DEMO / "judgments.jsonl"), model_path=str(DEMO))
    c.model.weights = "random"
    if arg == "adapters":
        c.data.heldout_examples = 8
        lora = dict(rank=2, dropout=0.1)
        more = dict(lora=lora, total_steps=16, eval_steps=8, blame_records=4)
        return recipe(c, cut=train("cut", data=c.data, init=c.model, **SMALL, **more))
    if arg == "served":
        endpoint = dict(url="", model="m", key_env="")
        answers = generate(data=c.data, init="", examples=24, endpoint=endpoint)
        told = judge("rule", data=of_stage(c.data, "answers"), rule="lfjax.judges.rules:length")
        told.rule_options = dict(at_least=5)
        return recipe(c, answers=answers, judged=told)
    answers = dict(examples=24, max_new_tokens=8, max_tokens=96, slots=8, per_host=arg == "host")
    rule = dict(rule="lfjax.judges.rules:length", rule_options=dict(at_least=5))
    steps = dict(total_steps=4, blame_records=0)
    return recipe(
        c,
        start=train("sft", data=c.data, init=c.model, **SMALL, **steps),
        answers=generate(data=c.data, init="start", **answers),
        judged=judge("rule", data=of_stage(c.data, "answers"), **rule),
        cut=train("cut", data=of_stage(c.data, "judged"), init="start", **SMALL, **steps),
    )
