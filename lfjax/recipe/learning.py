"""Stages that train."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lfjax.methods import get_estimator, get_method
from lfjax.recipe.settings import answering, with_settings


def train(method: str, *, data: ConfigDict, init: ConfigDict | str, **settings: Any) -> ConfigDict:
    """A training stage.

    Args:
      method: name of a method.
      data: the recipe's data block.
      init: the recipe's model block, or the name of an earlier stage whose model it starts from.
      **settings: any of the values below, or any option of the method; for a group (`lora`) a
        dict of some of its values.

    Raises: UserError for a setting that is neither.
    """
    m = get_method(method)
    c = ConfigDict(
        {
            "kind": "train",
            "method": method,
            "options": dict(m.options),
            "normalize": m.normalize,  # example (a mean over each response first), token, or pair
            "data": data,
            "dtype": "float32",  # of the computation, or bfloat16; parameters are float32
            "remat": "context",  # what is recomputed: none, all but context or dots, or full
            "attention": "auto",  # by the platform's kernel: splash on TPU, triton on GPU; or plain
            "compiler_options": True,  # those of lfjax/compiling.py for the accelerator
            # a batch: exactly one of the two sizes; rows hold several records
            "own_pairs": False,  # insist that the model that training starts from made the data
            "batch_examples": 8,
            "batch_rows": 0,
            "row_tokens": 4096,
            "max_tokens": 2048,  # longer prompts lose their start, longer responses are dropped
            "micro_batches": 1,
            "logprob_chunk": 512,  # tokens whose logits exist at once
            # length; every interval is _steps, _epochs or _examples, 0 for none
            "total_steps": 0,
            "total_epochs": 1.0,
            "total_examples": 0,
            "lora": {
                "rank": 0,  # of adapters; 0 trains all parameters
                "alpha": 16.0,  # adapters are scaled by alpha / rank
                "dropout": 0.0,
                "pattern": "mlp/",  # of projections: attn/q, k, v, o and mlp/gate, up, down
                "adapter": "",  # a peft directory to start from; its settings replace these
                "base_dtype": "float32",  # of the frozen parameters: bfloat16, int8, int4, nf4
            },
            "optimizer": {
                "learning_rate": 1e-5,
                "warmup_steps": 0,
                "warmup_epochs": 0.0,
                "warmup_examples": 0,
                "warmup_fraction": 0.0,  # of all steps
                "decay": "cosine",  # or linear, constant
                "final_fraction": 0.0,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "mu_dtype": "float32",  # of the first moment, or bfloat16
                "weight_decay": 0.0,
                "clip_norm": 1.0,
            },
            # evaluation on held-out records, and checkpoints
            "eval_steps": 0,
            "eval_epochs": 0.0,
            "eval_examples": 0,
            # pages that show which words a judgment blamed (cut); one is always made at the end
            "blame_steps": 0,
            "blame_epochs": 0.0,
            "blame_examples": 0,
            "blame_records": 32,  # at most, of the held-out ones if there are any; 0 for no pages
            "best": "",  # e.g. heldout/loss: keep and export the checkpoint where it is lowest
            "patience": 0,  # evaluations without a better one before training ends; 0: never
            "save_steps": 100,
            "save_epochs": 0.0,
            "save_examples": 0,
            "keep": 2,
            "log_every_steps": 1,
            "profile_steps": 0,  # that the profiler looks at, from the first one on
            "profile_first_step": 10,
            "export_dtype": "",  # of the exported weights; empty: as the model was given
        }
    )
    c.init = init
    return with_settings(f"train('{method}')", c, settings)


def rl(
    *,
    data: ConfigDict,
    init: ConfigDict | str,
    reward: str | dict[str, str | dict[str, Any]],
    kl_to: ConfigDict | str,
    monitor: str | dict[str, Any] = "",
    **settings: Any,
) -> ConfigDict:
    """A stage that trains a policy on rewards of what it samples (docs/rl.md).

    Args:
      data: the recipe's data block, or `of_stage`: prompts, or responses to be improved.
      init: the recipe's model block, or the name of an earlier stage whose model it starts from.
      reward: who rewards: an earlier stage with a reward model, or a rule
        (`package.module:function`); or several by a name of one's own, each that or a dict of some
        of the values of `_rewarding`.
      kl_to: as `init`, the frozen model that the policy is kept near.
      monitor: like one of `reward`, who is not learned from, but compared with the rewards.
      **settings: any of the values below, or any option of the estimator; for a group (`lora`) a
        dict of some of its values.

    Raises: UserError for a setting that is neither.
    """
    estimator = settings.get("estimator", "rloo")
    like = train("sft", data=data, init=init)
    like.optimizer.update(learning_rate=1e-6, decay="constant", b2=0.95)
    several = reward if isinstance(reward, dict) else {"reward": reward}
    c = ConfigDict(
        {
            "kind": "rl",
            "estimator": estimator,
            "options": dict(get_estimator(estimator).options),
            "data": data,
            # what is improved: rejected and chosen of a pair, each its own task, or the response;
            # none where prompts are answered
            "reference": (),
            "rewards": {name: _rewarding(given) for name, given in several.items()},
            "missing_eos_penalty": 1.0,  # taken off where a response was cut at max_new_tokens
            "kl_dtype": "float32",  # of the reference's parameters, or bfloat16
            # rollouts
            "prompts": 32,  # of a step
            "samples": 4,  # responses to each
            "temperature": 1.0,  # of the policy, in sampling and in learning
            "max_new_tokens": 256,
            "max_reference_tokens": 256,  # longer ones are left out
            "max_tokens": 1536,  # of prompt, reference and response; longer prompts are left out
            "slots": 32,  # responses that are drawn at once
            "rollout_dtype": "float32",  # of the sampler's weights and activations, or bfloat16
            # the update
            "mini_batches": 1,  # of a step, each an update; they divide the prompts
            "passes": 1,  # over a step's rollouts
            "dtype": "float32",  # of the computation, or bfloat16; parameters are float32
            "remat": "context",  # what is recomputed: none, all but context or dots, or full
            "attention": "auto",  # by the platform's kernel: splash on TPU, triton on GPU; or plain
            "compiler_options": True,  # those of lfjax/compiling.py for the accelerator
            "row_tokens": 3072,
            "micro_batches": 1,
            "logprob_chunk": 512,  # tokens whose logits exist at once
            # length; every interval is _steps, _epochs or _examples, 0 for none
            "total_steps": 0,
            "total_epochs": 1.0,
            "total_examples": 0,
            "lora": like.lora,
            "optimizer": like.optimizer,
            # who is not learned from: asked about the rollouts of every so manieth step
            "monitor": {"monitor": _rewarding(monitor)},
            "monitor_steps": 1,
            "alarm_steps": 20,  # that were monitored, over which trends are compared
            "antisymmetry_steps": 10,  # how often a gap reward scores rollouts the other way round
            "save_steps": 10,
            "save_epochs": 0.0,
            "save_examples": 0,
            "keep": 2,
            "export_dtype": "",  # of the exported weights; empty: as the model was given
        }
    )
    c.init, c.kl_to = init, kl_to
    return with_settings("rl", c, settings)


def _rewarding(given: str | dict[str, Any]) -> ConfigDict:
    """One who rewards: a model with a scalar head, a rule, or a judge."""
    if isinstance(given, str):
        given = {"rule" if ":" in given else "model": given}
    judging = answering(temperature=0.0, max_new_tokens=1024) if given.get("judge") else {}
    c = ConfigDict(
        {
            "model": "",  # a stage that trained one, or its directory
            "rule": "",  # package.module:function
            "rule_options": ConfigDict(),  # of that function
            "judge": "",  # a name of `lfjax.judges.JUDGES`, such as score
            "question": "",  # path of a .jinja file instead of the judge's own template
            "weight": 1.0,
            # a value is (score − offset) / spread; unset: what was measured when the model was
            # trained, or 0 and 1
            "offset": placeholder(float),
            "spread": placeholder(float),
            "dtype": "float32",  # of a model's weights and activations, or bfloat16
            **judging,
        }
    )
    c.init = ""  # the model that judges
    return with_settings("rl: reward", c, given)
