"""Compare two systems on the same prompts: docs/evaluate.md.

    export OPENAI_API_KEY=…
    python -m lfjax.main --config configs/evaluate.py --workdir runs/compared \
        --config.stages.compared.systems.baseline.path=old.jsonl \
        --config.stages.compared.systems.candidate.path=new.jsonl \
        --config.stages.compared.endpoint.model=NAME --config.stages.compared.endpoint.budget=5 \
        --config.stages.compared.endpoint.prompt_price=2.5 \
        --config.stages.compared.endpoint.price=10

The files hold Records with responses (what configs/generate.py writes). The tables are in
WORKDIR/compared/results.json, every prompt with its answers and verdicts in per_prompt.jsonl.

A variant is named after the colon:

judge         an OpenAI-compatible endpoint sees both answers, in both orders
model         the same with a local model: --config.model.path=DIRECTORY_OR_HUB_ID
feedback      what an earlier judge said of each answer (configs/judge.py)
rule          a Python function (Record) -> Feedback:
              --config.stages.compared.rule=package.module:function
rouge         against references: --config.data.path=FILE --config.data.source=defacto, or those in
              the files, --config.stages.compared.reference=meta.NAME
truth         in the lab, where it is known
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, evaluate, recipe

OPENAI = "https://api.openai.com/v1"
SYSTEMS = dict(systems=dict(baseline=None, candidate=None), baseline="baseline")


def get_config(arg="judge"):
    if arg not in VARIANTS:
        raise UserError(f"configs/evaluate.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    c = base(source="records")
    return recipe(c, compared=VARIANTS[arg](c))


def judge(c):
    return evaluate("judge", data=c.data, endpoint=dict(url=OPENAI), **SYSTEMS)


def model(c):
    return evaluate("judge", data=c.data, init=c.model, **SYSTEMS)


def feedback(c):
    return evaluate("feedback", data=c.data, **SYSTEMS)


def rule(c):
    return evaluate("rule", data=c.data, rule="lfjax.judges.rules:length", **SYSTEMS)


def rouge(c):
    return evaluate("rouge", data=c.data, **SYSTEMS)


def truth(c):
    return evaluate("truth", data=c.data, **SYSTEMS)


VARIANTS = {
    "judge": judge,
    "model": model,
    "feedback": feedback,
    "rule": rule,
    "rouge": rouge,
    "truth": truth,
}
