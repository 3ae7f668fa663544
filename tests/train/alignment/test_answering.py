import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import pytest

from model.errors import UserError
from model.transformer import init
from train.alignment.answering import Answers, Examiner, Question, chat_of_run, read_questions, table, write_answers
from train.alignment.answers import judge
from train.data.config import Bytes
from train.data.conversations.found_template import FoundTemplate
from train.data.conversations.template import ChatTemplate
from train.data.tokenizers.interface import BytesTokenizer
from train.evaluation.named_evaluations import AnswerEvaluation
from train.hooks import evaluations
from train.hooks.evaluations import AnswerHook

TOKENIZER = BytesTokenizer(Bytes())
PLAIN = FoundTemplate(ChatTemplate("{{ begin }}{{ messages[0].content }}:"))


def question(prompt, answer="b"):
    return Question([{"role": "user", "content": prompt}], None, answer, f"row {prompt[:5]}")


def test_questions_are_rows_with_a_prompt_and_an_answer(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": [{"role": "user", "content": "c"}], "answer": 7}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_questions(str(path))
    assert [(one.messages[0]["content"], one.answer) for one in found] == [("a", "b"), ("c", "7")]
    assert found[1].where == f"{path}, line 2"
    assert len(read_questions(str(path), limit=1)) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a"}, 'line 1: expected "prompt" and "answer"; its fields are \'prompt\''),
        ({"prompt": "a", "answer": ""}, "line 1: answer: expected a text that is not empty, got ''"),
        ({"prompt": "", "answer": "b"}, "line 1: prompt is empty"),
    ],
)
def test_rows_that_are_no_questions(row, words, tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=words):
        read_questions(str(tmp_path / "q.jsonl"))


def test_a_model_answers_until_the_end_of_its_turn(tiny_experiment):
    """A model that always repeats one token answers as that token says; another one's answers follow new parameters."""
    model = tiny_experiment(model__context_length=16).model
    params = jax.jit(init, static_argnums=0)(model, jax.random.key(0))
    asked = [question("a"), question("abc", "bbb"), question("x")]
    examiner = Examiner(model, params, TOKENIZER, PLAIN, asked, max_tokens=3, rows=2)
    first = examiner()
    assert len(first.texts) == 3
    assert first == examiner(params)

    def always(token):
        """The same model with a stream of ones, which only the row of `token` of the unembedding meets."""
        changed = jax.tree.map(jnp.zeros_like, params)
        return overwritten(changed, token)

    def overwritten(tree, token):
        names = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        table = next(name for name, leaf in names.items() if 257 in leaf.shape and leaf.ndim == 2)
        norms = [name for name in names if "norm" in name and names[name].ndim == 1]

        def leaf(path, x):
            name = jax.tree_util.keystr(path)
            if name == table:
                axis = x.shape.index(257)
                row = jnp.where(jnp.arange(257) == token, 2.0, 1.0)
                return jnp.broadcast_to(row[:, None] if axis == 0 else row[None], x.shape).astype(x.dtype)
            return jnp.ones_like(x) if name in norms else x

        return jax.tree_util.tree_map_with_path(leaf, tree)

    repeated = examiner(always(ord("b")))
    assert repeated.texts == ("bbb",) * 3
    assert [verdict.strict for verdict in repeated.verdicts] == [False, True, False]
    assert repeated.unfinished == 3
    ended = examiner(always(TOKENIZER.end_of_document))
    assert ended.texts == ("",) * 3
    assert ended.numbers() == {"accuracy": 0, "accuracy_lenient": 0, "unfinished": 0, "questions": 3}


def test_a_prompt_that_leaves_no_room_is_named(tiny_experiment):
    model = tiny_experiment(model__context_length=16).model
    with pytest.raises(UserError, match=r"row xxxxx: the prompt has 16 tokens with its chat template, and the model's"):
        Examiner(model, None, TOKENIZER, PLAIN, [question("x" * 14)])


def test_the_template_of_a_run_or_the_plain_one(tmp_path):
    assert chat_of_run(tmp_path, TOKENIZER).template.where == "Cairn's plain chat template"
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "chat_template.jinja").write_text("x")
    (tmp_path / "origin" / "config.json").write_text('{"eos_token_id": 5}')
    found = chat_of_run(tmp_path, TOKENIZER)
    assert (found.template.render([]), found.stop_tokens) == ("x", (5,))


def test_numbers_and_files(tmp_path):
    asked = [question("a"), question("b"), question("c"), question("d")]
    texts = ("b", "it is b", "c", "")
    answers = Answers(texts, tuple(judge(text, "b") for text in texts), 1)
    assert answers.numbers() == {"accuracy": 0.25, "accuracy_lenient": 0.5, "unfinished": 0.25, "questions": 4}
    assert table(answers).splitlines() == [
        "4 questions",
        "exact match    25.0%  (standard error 21.7%)",
        "lenient        50.0%  (standard error 25.0%)",
        "1 answers did not end within the allowed tokens",
    ]
    write_answers(asked, answers, tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert (rows[1]["given"], rows[1]["strict"], rows[1]["lenient"]) == ("it is b", False, True)


def test_the_hook_writes_accuracies(tiny_experiment, tmp_path, monkeypatch):
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c", "answer": "d"}\n')
    option = AnswerEvaluation(name="asked", path=str(tmp_path / "q.jsonl"), every=5, max_tokens=7)
    written, said, made = [], [], []

    class Stub:
        def __init__(self, model, params, tokenizer, chat, questions, **options):
            made.append((len(questions), options["max_tokens"], chat.template.where))

        def __call__(self, params, alive):
            alive()
            return Answers(("b", "x"), (judge("b", "b"), judge("x", "d")), 0)

    monkeypatch.setattr(evaluations, "Examiner", Stub)
    session = types.SimpleNamespace(
        experiment=tiny_experiment(evaluations=(option,)),
        folder=tmp_path,
        dataset=types.SimpleNamespace(tokenizer=TOKENIZER),
        layout=None,
        alive=lambda: None,
        say=said.append,
        metrics=types.SimpleNamespace(evaluation=lambda step, values, name: written.append((step, values, name))),
    )
    hook = AnswerHook(session, option)
    state = types.SimpleNamespace(params=None, opt_state=None, frozen=None, untrained=None)
    monkeypatch.setattr(evaluations, "evaluation_params", lambda optimizer, state: None)
    info = types.SimpleNamespace(step=5, last=False, state=state)
    assert hook.due(info)
    hook(info)
    hook(info)
    assert made == [(2, 7, "Cairn's plain chat template")]
    assert written[0] == (5, {"accuracy": 0.5, "accuracy_lenient": 0.5, "unfinished": 0, "questions": 2}, "asked")
    assert said[0] == "step 5: asked accuracy 50.0%, lenient 50.0%"
    with pytest.raises(UserError, match=r"evaluations \(asked\): .*no such text"):
        AnswerHook(session, dataclasses.replace(option, path=str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize("fields", [{"every": 0}, {"num_prompts": 0}, {"max_tokens": 0}, {"name": "../x"}])
def test_refused(fields, tiny_experiment):
    with pytest.raises(UserError, match=f"evaluations.0.{next(iter(fields))}: "):
        tiny_experiment(evaluations=(AnswerEvaluation(**({"name": "a", "path": "q.jsonl"} | fields)),))
