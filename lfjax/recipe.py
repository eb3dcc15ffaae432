"""Building blocks of the files in configs/: a recipe is a config that lists stages in order.

    def get_config(arg=""):
        c = base(source="cut")
        return recipe(c, cut=train("cut", data=c.data, init=c.model))

`--config.stages.cut.options.alpha=0.5` on the command line overrides any value.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lfjax.data.mixture import MIXTURE, check_block
from lfjax.data.sources import SOURCES
from lfjax.errors import UserError, nearest
from lfjax.methods import get_estimator, get_method
from lfjax.stages.evaluate import MODES
from lfjax.stages.filter import FILTERS


def base(
    *,
    source: str = MIXTURE,
    path: str | None = None,
    mixture: dict[str, dict[str, Any]] | None = None,
    model_path: str | None = None,
) -> ConfigDict:
    """What the stages of a recipe share: seed, mesh, a model and a data source.

    Args:
      mixture: blocks of data by name, each a `source` and a `weight`, perhaps a `path`, `options`
        and `downsample`, instead of one source and its path.

    A path that is None has to be given on the command line (`--config.data.path=…`).
    """
    if mixture and source != MIXTURE:
        raise UserError(f"base: a mixture is given, and source='{source}' as well; give one.")
    _known_source("data", source, (*SOURCES, MIXTURE))
    return ConfigDict(
        {
            "seed": 42,
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1},
            "model": {
                "path": placeholder(str) if model_path is None else model_path,
                "weights": "pretrained",  # or random: the directory's configuration, fresh weights
            },
            "data": {
                "path": placeholder(str) if path is None else path,
                "source": source,  # or mixture: of the blocks below, or of a file of blocks at path
                "mixture": {name: _block(name, block) for name, block in (mixture or {}).items()},
                "options": source_options(),
                "template": "alpaca",  # or tulu, bare, own (the model's), or a .jinja file
                "downsample": -1.0,  # satisfactory records kept per flawed one; negative keeps all
                "heldout_examples": 0,  # records kept out of training and evaluated on
                "on_error": "stop",  # or skip: count a malformed record and go on
            },
        }
    )


def source_options() -> dict[str, Any]:
    """The options of all sources, unset: each source has its defaults (docs/data.md), and another
    source can be chosen on the command line."""
    return {
        name: placeholder(type(value))
        for _, defaults in SOURCES.values()
        for name, value in defaults.items()
    }


def _block(name: str, block: dict[str, Any]) -> ConfigDict:
    """A block of a mixture with all that can be set of it."""
    where = f"base: mixture block '{name}'"
    check_block(where, block, needed=("source", "weight"))
    _known_source(where, block["source"], SOURCES)
    c = ConfigDict(
        {
            "path": placeholder(str),
            "source": block["source"],
            "weight": 1.0,
            "options": source_options(),
            "downsample": placeholder(float),  # unset: that of the whole data block
        }
    )
    c.update({field: value for field, value in block.items() if value is not None})
    return c


def _known_source(where: str, source: str, known) -> None:
    if source not in known:
        raise UserError(f"{where}.source: unknown '{source}'. {nearest(source, known)}")


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
                "base_dtype": "float32",  # of the frozen parameters, or bfloat16
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
            "save_steps": 100,
            "save_epochs": 0.0,
            "save_examples": 0,
            "keep": 2,
            "log_every_steps": 1,
            "export_dtype": "",  # of the exported weights; empty: as the model was given
        }
    )
    c.init = init
    return _set(f"train('{method}')", c, settings)


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
            "monitor": {"monitor": _rewarding(monitor)} if monitor else {},
            "monitor_steps": 1,
            "alarm_steps": 20,  # that were monitored, over which trends are compared
            "save_steps": 10,
            "save_epochs": 0.0,
            "save_examples": 0,
            "keep": 2,
            "export_dtype": "",  # of the exported weights; empty: as the model was given
        }
    )
    c.init, c.kl_to = init, kl_to
    return _set("rl", c, settings)


def _rewarding(given: str | dict[str, Any]) -> ConfigDict:
    """One who rewards: a model with a scalar head, a rule, or a judge."""
    if isinstance(given, str):
        given = {"rule" if ":" in given else "model": given}
    judging = _answering(temperature=0.0, max_new_tokens=1024) if given.get("judge") else {}
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
    return _set("rl: reward", c, given)


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
            **_answering(temperature=1.0, max_new_tokens=512),
        }
    )
    c.init = init or ""
    return _set("generate", c, settings)


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
            **_answering(temperature=0.4, max_new_tokens=512),
        }
    )
    c.init = init or ""
    return _set("improve", c, settings)


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
            **_answering(temperature=0.0, max_new_tokens=1024),
        }
    )
    c.init = init or ""
    return _set(f"judge('{judge}')", c, settings)


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
            **_answering(temperature=0.0, max_new_tokens=1024),
        }
    )
    c.init = init or ""
    return _set(f"evaluate('{mode}')", c, settings)


def filter_(name: str, *, data: ConfigDict, **options: Any) -> ConfigDict:
    """A stage that applies one of `lfjax.stages.filter.FILTERS` to records, with its options.

    Raises: UserError for a name that is none of them.
    """
    if name not in FILTERS:
        raise UserError(f"filter_: unknown '{name}'. {nearest(name, FILTERS)}")
    own = {"options": options} if options else {}
    return ConfigDict({"kind": "filter", "filter": name, "data": data, **own})


def self_bias(*, data: ConfigDict, truth: str = "", among: str = "") -> ConfigDict:
    """A stage that asks how far a model's scores of its own text can be trusted.

    Args:
      data: records with scored refinements, or scored sides of preferences.
      truth: `oracle` in the lab, where it is known.
      among: a stage with all sides of preferences, those that could not be scored among them.
    """
    return ConfigDict({"kind": "self_bias", "data": data, "truth": truth, "among": among})


def make(function: str, **options: Any) -> ConfigDict:
    """A stage in which a function of the lab writes its world: `package.module:function`, called as
    (folder, seed=…, **options) -> outputs by name. Later stages read `STAGE/OUTPUT`."""
    return ConfigDict({"kind": "make", "function": function, "options": options})


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
    return _set("detect", c, settings)


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


def cached(stage: ConfigDict) -> ConfigDict:
    """The stage, to be kept for other workdirs when it is finished, and taken from there."""
    stage.cached = True
    return stage


def seeded(stage: ConfigDict, seed: int) -> ConfigDict:
    """The stage with a seed of its own, as one of several repetitions."""
    stage.seed = seed
    return stage


def of_stage(data: ConfigDict, stage: str, **changed: Any) -> ConfigDict:
    """A data block for what an earlier stage wrote. Template and error handling stay those of the
    recipe's block, also when they are set on the command line."""
    c = ConfigDict(data.to_dict())
    c.update(path=stage, source="records", mixture={}, downsample=-1.0, heldout_examples=0)
    for name in ("template", "on_error"):
        c[name] = data.get_ref(name)
    c.update(changed)
    return c


def _answering(*, temperature: float, max_new_tokens: int) -> dict[str, Any]:
    """Who answers, and how."""
    return {
        "max_new_tokens": max_new_tokens,
        "sampling": {
            "temperature": temperature,  # 0 takes the likeliest token
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        },
        "stop": (),  # texts before which an answer is cut
        # a local model
        "dtype": "float32",  # of weights and activations, or bfloat16
        "slots": 32,  # answers that are drawn at once
        "max_tokens": 2048,  # of prompt and answer
        "per_host": False,  # of several processes each has the model, or they have one together
        # or an OpenAI-compatible server, if it has a URL
        "endpoint": {
            "url": "",  # up to and without /chat/completions
            "model": "",
            "key_env": "OPENAI_API_KEY",  # variable that holds the key; empty for none
            "concurrency": 16,
            "requests_per_minute": 0.0,  # limits; 0 for none
            "tokens_per_minute": 0.0,
            "timeout_s": 120.0,  # of an attempt
            "deadline_s": 600.0,  # of a request with all its attempts
            "prompt_price": 0.0,  # of a million tokens read, and written
            "price": 0.0,
            "budget": -1.0,  # in the prices' currency, for all answers of the workdir; -1 for none
        },
    }


def _set(where: str, c: ConfigDict, settings: dict[str, Any]) -> ConfigDict:
    """Put each setting where its name is: in the stage's config, or in one of its groups.

    Raises: UserError for a name that is nowhere.
    """
    groups = [c[name] for name in ("options", "optimizer", "sampling", "endpoint") if name in c]
    for name, value in settings.items():
        place = next((p for p in (c, *groups) if name in p), None)
        if place is None:
            known = [key for p in (c, *groups) for key in p]
            raise UserError(f"{where}: unknown setting '{name}'. {nearest(name, known)}")
        if isinstance(place[name], ConfigDict) and not isinstance(value, ConfigDict):
            place[name].update(value)
        else:
            place[name] = value
    return c


def recipe(c: ConfigDict, **stages: ConfigDict) -> ConfigDict:
    """Put stages into a config in the order given, which a ConfigDict alone would sort away."""
    c.stages = ConfigDict(stages)
    c.order = tuple(stages)
    return c
