"""lm_eval's tasks on a pretrained model, against transformers on torch: local tasks, no network."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lfjax.errors import UserError
from tests.conftest import ROOT, write_jsonl

pytest.importorskip("lm_eval", reason='the extra "eval" is not installed')

from lfjax.generation.likelihood import CHUNK, likeliest
from lfjax.generation.scheduler import Completion
from lfjax.lm_eval_backend import TARGET, LfjaxLM, main

PAIRS = [
    ("Once upon a time, there was a little", " girl named Lily."),
    ("Once upon a time, there was a little", " carburettor."),
    ("", "One day, Tom went to the park."),
    ("She was very happy ", "and she smiled."),
    ("The big dog", ""),
    ("Tim had a ball. " * 60, "It was red."),  # the start is cut off
]


@pytest.fixture(scope="module")
def model(stories):
    return LfjaxLM(path=stories, batch_size="2")


@pytest.fixture(scope="module")
def theirs(stories):
    """(torch model, tokenizer) of transformers."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(stories).eval(), AutoTokenizer.from_pretrained(
        stories
    )


def request(*args):
    return SimpleNamespace(args=args)


def their_score(theirs, context: list[int], target: list[int]) -> tuple[float, bool]:
    import torch

    with torch.no_grad():
        logits = theirs[0](torch.tensor([context + target])).logits[0, len(context) - 1 : -1]
    logp = logits.double().log_softmax(-1)
    picked = logp[range(len(target)), target]
    return float(picked.sum()), bool((logits.argmax(-1).numpy() == target).all())


def test_loglikelihoods(model, theirs):
    """Sums over the continuation's tokens, cut as lm_eval's own backend cuts them."""
    tokenizer = theirs[1]
    found = model.loglikelihood([request(*pair) for pair in PAIRS])
    for (context, target), (logp, greedy) in zip(PAIRS, found):
        kept = context.rstrip()
        whole = tokenizer.encode(context + target)
        head = tokenizer.encode(kept) if kept else [tokenizer.bos_token_id]
        assert whole[: len(head)] == head
        ids = whole[-model.max_tokens :]  # torch's rotary table ends there
        count = len(whole) - len(head)
        expected = their_score(theirs, ids[:-count], ids[-count:]) if count else (0.0, True)
        assert logp == pytest.approx(expected[0], abs=1e-4 if len(whole) < 512 else 5e-3)
        assert greedy == expected[1]
    assert found[0][0] > found[1][0]  # it knows its stories


def test_what_greedy_decoding_says_is_greedy(model):
    """The sampler's text is what the scorer calls the likeliest, token by token; another is not."""
    start = "Once upon a time, there was a little"
    (text,) = model.generate_until([request(start, {"until": ["."], "max_gen_toks": 24})])
    assert text and "." not in text
    # This tokenizer decodes the beginning of a text without its space.
    said = [request(start, f" {text}"), request(start, " green door")]
    assert [greedy for _, greedy in model.loglikelihood(said)] == [True, False]


def test_company_changes_nothing(model):
    """Alone, together, in another order: the same to 1e-5."""
    requests = [request(*pair) for pair in PAIRS]
    together = model.loglikelihood(requests)
    turned = model.loglikelihood(requests[::-1])[::-1]
    alone = [model.loglikelihood([r])[0] for r in requests]
    for other in (turned, alone):
        np.testing.assert_allclose([x for x, _ in other], [x for x, _ in together], atol=1e-5 * 512)
        assert [g for _, g in other] == [g for _, g in together]


def test_rolling(stories, theirs):
    """Every token once after one BOS, in windows of what the model sees; the last one is full."""
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside. " * 3
    model = LfjaxLM(path=stories, max_tokens=32)
    found = model.loglikelihood_rolling([request(text), request("The end."), request("")])
    tokenizer = theirs[1]
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = [tokenizer.bos_token_id, *ids]
    total = their_score(theirs, whole[:1], whole[1:33])[0]
    for done in range(32, len(ids), 32):
        end = min(done + 32, len(ids))
        context = whole[end - 32 : done + 1]  # as much of it as the window holds
        total += their_score(theirs, context, whole[done + 1 : end + 1])[0]
    assert len(ids) % 32  # the last window overlaps the one before
    assert found[0] == pytest.approx(total, abs=2e-3)
    short = tokenizer.encode("The end.", add_special_tokens=False)
    assert found[1] == pytest.approx(their_score(theirs, whole[:1], short)[0], abs=1e-4)
    assert found[2] == 0


def test_generation_is_greedy_and_ends(model, theirs):
    """The texts of transformers' greedy decoding, cut before the stop text."""
    import torch

    starts = ["Once upon a time", "One day, Tim saw a big"]
    how = {"until": ["\n", ". "], "max_gen_toks": 20, "do_sample": False, "temperature": 0.7}
    found = model.generate_until([request(s, dict(how)) for s in starts])
    net, tokenizer = theirs
    for start, text in zip(starts, found):
        ids = tokenizer(start, return_tensors="pt").input_ids
        with torch.no_grad():
            drawn = net.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
        whole = tokenizer.decode(drawn, skip_special_tokens=True)
        cut = min(whole.find(u) if u in whole else len(whole) for u in how["until"])
        assert text == whole[:cut]


def test_sampling_follows_its_settings(model):
    how = {"max_gen_toks": 12, "temperature": 1.5, "do_sample": True}
    texts = model.generate_until([request("Once upon a time", how)] * 4)
    assert len(set(texts)) > 1
    assert texts == model.generate_until([request("Once upon a time", how)] * 4)


def test_likeliest_is_the_argmax():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 2 * CHUNK, 8)).astype(np.float32)
    head = rng.normal(size=(50, 8)).astype(np.float32)
    expected = np.einsum("btd,vd->btv", hidden, head).argmax(-1)
    np.testing.assert_array_equal(likeliest(*map(jnp.asarray, (hidden, head))), expected)


def test_chat_template(stories, tmp_path):
    """Text to be continued ends within the last message; a name of a special token that a user
    quotes stays plain text."""
    template = tmp_path / "t.jinja"
    template.write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    model = LfjaxLM(path=stories, template=str(template))
    asked = [{"role": "user", "content": "Hi </s>"}]
    text = model.apply_chat_template(asked)
    assert text.endswith("[assistant] ") and model.chat_template(True) == template.read_text()
    ids = model.tok_encode(text)
    assert ids.count(model.words.bos) == 1 and model.words.eos not in ids
    begun = [*asked, {"role": "assistant", "content": "The answer is"}]
    continued = model.apply_chat_template(begun, add_generation_prompt=False)
    assert continued == text + "The answer is"


def test_mistakes(stories, model):
    with pytest.raises(UserError, match=r"unknown 'pth'.*Did you mean 'path'"):
        LfjaxLM(pth=stories)
    with pytest.raises(UserError, match="path is not set"):
        LfjaxLM()
    for how, told in (
        (dict(self_refine="frist"), "self_refine=frist. Did you mean 'first'"),
        (dict(self_refine="true", leave_out="scores"), "Did you mean 'score'"),
        (dict(leave_out="score"), "set self_refine=true, or first"),
        (dict(self_refine="first", refine_tokens=512), "refine_tokens=512: .* less than the 512"),
    ):
        with pytest.raises(UserError, match=told):
            LfjaxLM(path=stories, **how)
    with pytest.raises(UserError, match="max_gen_toks=600"):
        model.generate_until([request("a", {"max_gen_toks": 600})])
    with pytest.raises(UserError, match="the model sees max_tokens=512"):
        model.loglikelihood([request("a", " word" * 600)])


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
"""
CHOICE = """\
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list:
  - metric: acc
"""
ROLLING = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{start}}"
metric_list:
  - metric: word_perplexity
"""
UNTIL = """\
output_type: generate_until
doc_to_text: "{{start}}"
doc_to_target: " "
generation_kwargs:
  until: ["."]
  max_gen_toks: 8
metric_list:
  - metric: exact_match
"""
DOCS = [
    {"start": "Once upon a", "choices": ["time", "carburettor"], "label": 0},
    {"start": "She was very", "choices": ["ical", "happy"], "label": 1},
]
KINDS = {"choice": CHOICE, "rolling": ROLLING, "until": UNTIL}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with a task of each kind."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = write_jsonl(tmp_path / "docs.jsonl", DOCS)
    for name, body in KINDS.items():
        task = TASK.format(name=f"lfjax_{name}", data=data) + body
        (tmp_path / f"{name}.yaml").write_text(task)
    return tmp_path


def test_tasks_of_each_kind(model, tasks):
    """lm_eval's own loop over a local task: what it asks for, and what it makes of the answers."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = [f"lfjax_{kind}" for kind in KINDS]
    found = simple_evaluate(model=model, tasks=names, task_manager=manager, log_samples=True)
    assert found["results"]["lfjax_choice"]["acc,none"] == 1
    texts = [request(d["start"]) for d in DOCS]
    words = sum(len(d["start"].split()) for d in DOCS)
    perplexity = np.exp(-sum(model.loglikelihood_rolling(texts)) / words)
    given = found["results"]["lfjax_rolling"]["word_perplexity,none"]
    assert given == pytest.approx(perplexity, rel=1e-4)
    for sample, doc in zip(found["samples"]["lfjax_choice"], DOCS):
        asked = [request(doc["start"], f" {choice}") for choice in doc["choices"]]
        scores = [x[0][0] for x in sample["resps"]]
        assert scores == pytest.approx([x for x, _ in model.loglikelihood(asked)], abs=1e-4)
    how = {"until": ["."], "max_gen_toks": 8}
    expected = model.generate_until([request(d["start"], how) for d in DOCS])
    assert [s["resps"][0][0] for s in found["samples"]["lfjax_until"]] == expected


@pytest.mark.slow
def test_a_local_task_by_the_command_line(stories, tasks):
    """From the shell to lm_eval's own file of results. (It reads all of its own tasks first.)"""
    command = [sys.executable, "-m", "lfjax.lm_eval_backend", "run", "--model", "lfjax"]
    command += ["--model_args", f"path={stories}", "--include_path", str(tasks)]
    command += ["--tasks", "lfjax_choice", "--output_path", str(tasks / "out")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tasks / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["lfjax_choice"]["acc,none"] == 1


def test_the_command_line_registers_the_backend(monkeypatch, capsys):
    """By its name beside lm_eval's own; a mistake of the user is one line."""
    import lm_eval.__main__
    from lm_eval.api.registry import get_model

    def mistaken():
        assert get_model("lfjax") is LfjaxLM and get_model("dummy")
        raise UserError("model_args: path is not set.")

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", mistaken)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "lfjax: model_args: path is not set.\n"


def test_the_entry_point_is_declared():
    """What versions of lm_eval that look for it find."""
    assert f'"lm_eval.models": ["lfjax = {TARGET}"]' in (ROOT / "setup.py").read_text()


TURN = (
    "It is 5. Or so.\n\n### Feedback\nWeaknesses: a\nAdvice: b\nOverall Score: [[7]]\n\n"
    "### Improved Response\nIt is 6."
)


def test_first_answers_alone_are_read(stories, monkeypatch):
    """Without it the last number of what a task reads is the model's score of its own answer."""
    model = LfjaxLM(path=stories, self_refine="first", refine_tokens=24)
    titles = []

    def continued(title, requests):
        titles.append(title)
        texts = [TURN[: min(TURN.find(s) for s in r.stop)] for r in requests]
        return [Completion([], [], text, "stop") for text in texts]

    monkeypatch.setattr(model, "continued", continued)
    asked = [request("How many?", {"until": until}) for until in (["Question:"], [". "], None)]
    assert model.generate_until(asked) == ["It is 5. Or so.", "It is 5", "It is 5. Or so."]
    assert titles == ["lm_eval: answers"]
    model = LfjaxLM(path=stories, self_refine="first", leave_out="feedback")
    monkeypatch.setattr(model, "continued", continued)
    assert "7" in model.generate_until(asked)[0]  # it ends where such a model's first answer does


@pytest.mark.parametrize(
    "leave_out, said, heading",
    [
        ("score", "Weaknesses: a\nAdvice: b\n### Improved Response\nRed.", "### Feedback\n"),
        ("words", "Overall Score: [[7]]\n### Improved Response\nRed.", "### Feedback\n"),
        ("feedback", "Red.", "### Improved Response\n"),
    ],
)
def test_refinements_of_models_that_leave_out_a_part(
    stories, monkeypatch, leave_out, said, heading
):
    """Without it every refinement of such a model counts as one that cannot be read."""
    model = LfjaxLM(path=stories, self_refine=True, refine_tokens=24, leave_out=leave_out)
    shown = []

    def continued(title, requests):
        shown.append((model.words.decode(requests[0].ids), requests[0].stop))
        text = "Blue.\n\n" if title == "lm_eval: answers" else said
        return [Completion([], [], text, "stop") for _ in requests]

    monkeypatch.setattr(model, "continued", continued)
    assert model.generate_until([request("Name a colour.", {"until": ["\n"]})]) == ["Red."]
    assert shown[0][1] == (heading.strip(),) and shown[1][0].endswith(f"Blue.\n\n{heading}")


def test_refinement_within_what_the_model_sees(stories):
    """Without it a model of fewer positions than the default of refine_tokens can refine nothing,
    and the message asks for another setting."""
    model = LfjaxLM(path=stories, self_refine="first")
    assert model.max_tokens == 512 and model.refine_tokens == 256
    (text,) = model.generate_until([request("Once upon a time", {"max_gen_toks": 512})])
    assert text.startswith(", there was a little girl named")
    assert LfjaxLM(path=stories, self_refine="true", max_tokens=8192).refine_tokens == 2048


def test_refinements_alone_are_read(stories, monkeypatch, capsys):
    """The refinement up to the task's stop text; the first answer where none can be read."""
    model = LfjaxLM(path=stories, self_refine="true", refine_tokens=24, template="bare")
    plain = LfjaxLM(path=stories)
    starts = ["Once upon a time", "One day, Tim saw a big"]
    asked = [request(s, {"until": [". "], "max_gen_toks": 24}) for s in starts]
    assert model.generate_until(asked) == plain.generate_until(asked)
    assert "2 of 2 refinements not read" in capsys.readouterr().out
    said = "Weaknesses: a\nAdvice: b\nOverall Score: 3\n### Improved Response\nRed. Blue."
    given = [Completion([], [], text, end) for text, end in ((said, "stop"), (said, "length"))]
    continued, shown = model.continued, []

    def replaced(title, requests):
        if title != "lm_eval: refinements":
            return continued(title, requests)
        shown.extend(model.words.decode(r.ids) for r in requests)
        return given

    monkeypatch.setattr(model, "continued", replaced)
    found = model.generate_until(asked)
    assert found == ["Red", plain.generate_until(asked)[1]]  # the second was cut off
    assert all(text.endswith("### Feedback\n") for text in shown)
