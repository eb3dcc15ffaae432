"""Answer a file of prompts with a model, or with a server: docs/generate.md.

    python -m lfjax.main --config configs/generate.py --workdir runs/answers \
        --config.data.path=prompts.jsonl --config.model.path=DIRECTORY_OR_HUB_ID

Responses are Records in WORKDIR/answers/records.jsonl. A run that was stopped goes on with what it
has. The file holds `prompt` texts, one object a line; any other source does too, by
--config.data.source (docs/data.md), whose responses are then replaced.

--config.stages.answers.samples=4 --config.stages.answers.sampling.temperature=0.7
--config.data.template=own        the model's chat template; alpaca and tulu are shipped

A variant is named after the colon:

refine        rewrite judged responses so that nothing is left to criticize; the file holds
              `prompt`, `response` and `judgment`.
served        ask an OpenAI-compatible server instead, such as vLLM over an exported model:
              --config.stages.answers.endpoint.url=http://localhost:8000/v1
              --config.stages.answers.endpoint.model=NAME
"""

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, generate, recipe


def get_config(arg="answers"):
    if arg not in VARIANTS:
        raise UserError(f"configs/generate.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def answers():
    c = base(source="prompts")
    return recipe(c, answers=generate(data=c.data, init=c.model))


def refine():
    c = base(source="jsonl")
    how = dict(asks="refinement", temperature=0.7)
    return recipe(c, refinements=generate(data=c.data, init=c.model, **how))


def served():
    c = base(source="prompts")
    how = dict(endpoint=dict(key_env=""))
    return recipe(c, answers=generate(data=c.data, **how))


VARIANTS = {"answers": answers, "refine": refine, "served": served}
