"""CUT from judgments (Xu et al. 2024, arXiv 2312.14591 v4): docs/cut.md.

    python -m lfjax.main --config configs/cut.py:tiny --workdir runs/demo

A variant is named after the colon:

tiny          a small model from scratch on shipped judgments; a minute on two CPU cores.
stories260k   a pretrained model of 260 K parameters on the authors' data, which exercises the whole
              path and teaches nothing; --config.data.path=train-alpaca-sample-iter1.json
              --config.model.path=DIRECTORY. Minutes on two CPU cores.
custom        your judgments on your model: --config.data.path=judgments.jsonl
              --config.model.path=DIRECTORY_OR_HUB_ID.

With the authors' settings (LoRA; docs/reproduce_cut.md says what to download and what to expect):

llama2_13b_chat_online                        one iteration of the online loop (their Table 6)
llama2_13b_shepherd, llama2_13b_chat_shepherd offline, on Shepherd (Table 2)
summarize_13b, summarize_13b_chat             offline, on critiques of summaries (Table 3)
llama2_7b_chat_shepherd, llama2_70b_chat_shepherd, mistral_7b_it_shepherd, gemma_7b_it_shepherd,
llama3_8b_it_shepherd                         other bases (Table 5)
ultrafeedback_13b, ultrafeedback_13b_chat     1,000 instructions of UltraFeedback, judged anew
                                              (section 4.5); with …_dpo DPO on all their pairs

The paper's other methods on the data of Tables 2 and 3: the name of one of these four CUT variants
and _forward_prediction, _hindsight, _ilf_mle or _ilf_dpo, such as llama2_13b_shepherd_ilf_dpo. ILF
first has the model refine its flawed responses.

each with --config.data.path=FILE of the data; the models are fetched from the Hugging Face hub, or
given as --config.model.path=DIRECTORY.
"""

from functools import partial
from pathlib import Path

from lfjax.errors import UserError, nearest
from lfjax.recipe import base, generate, of_stage, recipe, train

DEMO = Path(__file__).parent.parent / "lfjax" / "lab" / "demo"

# The authors' scripts: adapters on the MLP, batch 8, one epoch, AdamW with 100 warm-up steps.
AUTHORS = dict(
    lora=dict(rank=16, alpha=16.0, dropout=0.05, pattern="mlp/", base_dtype="bfloat16"),
    dtype="bfloat16",
    remat="full",
    batch_examples=8,
    total_epochs=1.0,
    learning_rate=4e-4,
    decay="cosine",
    warmup_steps=100,
    max_tokens=2048,
    row_tokens=4096,
)
# DPO's β and learning rate are not in the paper.
PAIRS = AUTHORS | dict(beta=0.1, learning_rate=5e-6)


def get_config(arg="tiny"):
    if arg not in VARIANTS:
        raise UserError(f"configs/cut.py: unknown variant '{arg}'. {nearest(arg, VARIANTS)}")
    return VARIANTS[arg]()


def tiny():
    """First the language and its habits, faults included; then what the judgments say of them."""
    c = base(source="records", path=str(DEMO / "judgments.jsonl"), model_path=str(DEMO))
    c.model.weights = "random"
    c.data.heldout_examples = 40
    rows = dict(max_tokens=128, row_tokens=512, save_epochs=1.0, save_steps=0, eval_epochs=1.0)
    return recipe(
        c,
        base=train("sft", data=c.data, init=c.model, total_epochs=8.0, learning_rate=3e-3, **rows),
        cut=train("cut", data=c.data, init="base", total_epochs=16.0, learning_rate=3e-3, **rows),
    )


def stories260k():
    """The authors' online settings, but all parameters are trained and the warm-up is short."""
    c = base(source="cut")
    c.data.downsample = 0.25
    c.data.heldout_examples = 30
    settings = AUTHORS | dict(lora=dict(rank=0), dtype="float32", remat="context", warmup_steps=10)
    intervals = dict(eval_steps=20, save_steps=10)
    return recipe(c, cut=train("cut", data=c.data, init=c.model, **settings, **intervals))


def custom():
    """A JSONL with `prompt`, `response` and `judgment` (docs/cut.md), adapters on any model."""
    c = base(source="jsonl")
    return recipe(c, cut=train("cut", data=c.data, init=c.model, **AUTHORS))


def authors(model, source, threshold, alpha, downsample=0.25):
    """One training run of the paper."""
    c = base(source=source, model_path=model)
    c.data.downsample = downsample
    cut = train("cut", data=c.data, init=c.model, threshold=threshold, alpha=alpha, **AUTHORS)
    return recipe(c, cut=cut)


def offline(model, source="shepherd", downsample=0.25):
    """λ = 1.2 and α = 0.5, as the authors' README has it for Shepherd."""
    return partial(authors, model, source, 1.2, 0.5, downsample)


def compared(model, source, downsample, method):
    """A baseline in the settings of CUT's run: the paper gives none of its own."""
    c = base(source=source, model_path=model)
    c.data.downsample = downsample
    if not method.startswith("ilf_"):
        return recipe(c, **{method: train(method, data=c.data, init=c.model, **AUTHORS)})
    how = dict(asks="refinement", temperature=0.0, max_new_tokens=1024, dtype="bfloat16")
    refined = generate(data=c.data, init=c.model, max_tokens=4096, **how)
    data = of_stage(c.data, "refined")
    settings = PAIRS if method == "ilf_dpo" else AUTHORS
    method = "dpo" if method == "ilf_dpo" else method
    return recipe(
        c, refined=refined, **{method: train(method, data=data, init=c.model, **settings)}
    )


def ultrafeedback_dpo(model):
    """All pairs of an instruction's four responses, those of equal reward left out."""
    c = base(source="ultrafeedback", model_path=model)
    c.data.options.pairs = "all"
    return recipe(c, dpo=train("dpo", data=c.data, init=c.model, **PAIRS))


LLAMA2 = "meta-llama/Llama-2-{}-hf"
VARIANTS = {
    "tiny": tiny,
    "stories260k": stories260k,
    "custom": custom,
    "llama2_13b_chat_online": partial(authors, LLAMA2.format("13b-chat"), "cut", 1.1, 1.0),
    "llama2_13b_shepherd": offline(LLAMA2.format("13b")),
    "llama2_13b_chat_shepherd": offline(LLAMA2.format("13b-chat")),
    "summarize_13b": offline(LLAMA2.format("13b"), "critiques", downsample=-1.0),
    "summarize_13b_chat": offline(LLAMA2.format("13b-chat"), "critiques", downsample=-1.0),
    "llama2_7b_chat_shepherd": offline(LLAMA2.format("7b-chat")),
    "llama2_70b_chat_shepherd": offline(LLAMA2.format("70b-chat")),
    "mistral_7b_it_shepherd": offline("mistralai/Mistral-7B-Instruct-v0.1"),
    "gemma_7b_it_shepherd": offline("google/gemma-7b-it"),
    "llama3_8b_it_shepherd": offline("meta-llama/Meta-Llama-3-8B-Instruct"),
}
TABLES = {  # the data of Tables 2 and 3 -> (model, source, downsample)
    "llama2_13b_shepherd": (LLAMA2.format("13b"), "shepherd", 0.25),
    "llama2_13b_chat_shepherd": (LLAMA2.format("13b-chat"), "shepherd", 0.25),
    "summarize_13b": (LLAMA2.format("13b"), "critiques", -1.0),
    "summarize_13b_chat": (LLAMA2.format("13b-chat"), "critiques", -1.0),
}
BASELINES = ("forward_prediction", "hindsight", "ilf_mle", "ilf_dpo")
VARIANTS |= {
    f"{name}_{method}": partial(compared, *about, method)
    for name, about in TABLES.items()
    for method in BASELINES
}
for size in ("13b", "13b_chat"):
    model = LLAMA2.format(size.replace("_", "-"))
    VARIANTS[f"ultrafeedback_{size}"] = partial(authors, model, "cut", 1.1, 1.0)
    VARIANTS[f"ultrafeedback_{size}_dpo"] = partial(ultrafeedback_dpo, model)
