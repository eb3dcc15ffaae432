"""Judge a file of responses with an endpoint, a model or a rule: docs/judges.md.

    export OPENAI_API_KEY=…
    python -m lfjax.main --config configs/judge.py --workdir runs/judged \
        --config.data.path=responses.jsonl \
        --config.stages.judged.endpoint.model=NAME --config.stages.judged.endpoint.budget=5 \
        --config.stages.judged.endpoint.prompt_price=2.5 --config.stages.judged.endpoint.price=10

The file holds Records (what configs/generate.py writes), or by --config.data.source any other
responses. Judged Records are in WORKDIR/judged/records.jsonl, those without an answer that could be
read in missing.jsonl. A run that was stopped, or ran out of its budget, goes on with what it has.

A variant is named after the colon:

endpoint      CUT's judgments from an OpenAI-compatible endpoint. Others:
              --config.stages.judged.judge=score, critique, preference or judgment
model         the same from a local model: --config.model.path=DIRECTORY_OR_HUB_ID
rule          a Python function (Record) -> Feedback:
              --config.stages.judged.rule=package.module:function
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, judge, recipe

OPENAI = "https://api.openai.com/v1"


def get_config(arg="endpoint"):
    if arg not in VARIANTS:
        raise UserError(f"configs/judge.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def endpoint():
    c = base(source="records")
    return recipe(c, judged=judge("cut", data=c.data, endpoint=dict(url=OPENAI)))


def model():
    c = base(source="records")
    return recipe(c, judged=judge("cut", data=c.data, init=c.model))


def rule():
    c = base(source="records")
    how = dict(rule="lfjax.judges.rules:length", rule_options=dict(at_least=1))
    return recipe(c, judged=judge("rule", data=c.data, **how))


VARIANTS = {"endpoint": endpoint, "model": model, "rule": rule}
