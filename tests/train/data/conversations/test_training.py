"""A run on conversations that starts from another run: its tokenizer, its template, its losses, its resumption."""

import json

import jax
import numpy as np
import pytest

from train.data.batches.rows import FIELDS
from train.data.conversations.option import Conversations, SeparateConversations
from train.generation.chat_template import chat_prompts, stop_tokens
from train.loop import train
from train.objectives.next_token import NextToken
from train.parallel.feed import batch_fields
from train.parallel.mesh import make_mesh
from train.run.loading import load_run
from train.state import StateConfig, abstract_state
from train.step import compile_train_step


@pytest.fixture(scope="module")
def option(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"prompt": f"{a}{b}", "completion": b * (1 + i % 3)} for i, a in enumerate("abcdef") for b in "xyz"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Conversations(
        path=str(path),
        validation=SeparateConversations(path=str(path)),
        batch_size=8,
        sequence_length=32,
        prefetch=2,
    )


def test_a_run_on_conversations(option, tiny_experiment, tiny_run, tmp_path):
    experiment = tiny_experiment(data=option, training__init_from=str(tiny_run), samples__prompts=())
    assert experiment.objective == NextToken()
    said = []
    train(experiment, tmp_path / "whole", say=said.append)
    train(experiment, tmp_path / "parts", hard_stop=10, say=said.append)
    assert train(experiment, tmp_path / "parts", say=said.append).state == "finished"
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.5
    loaded = load_run(tmp_path / "whole")
    batches = experiment.data.training_batches(loaded.dataset(), ("weights",))
    tokens = [line["tokens"] for line in lines if line["kind"] == "train"]
    assert tokens == np.cumsum([batches.rows(n)["weights"].sum() for n in range(20)]).tolist()
    # The run knows how it is to be asked, without a flag.
    prompts = chat_prompts(tmp_path / "whole", loaded.tokenizer)
    end = loaded.tokenizer.end_of_document
    assert prompts.ids([{"role": "user", "content": "ax"}]) == [end, *b"user:\nax\nassistant:\n"]
    assert stop_tokens(tmp_path / "whole", loaded.tokenizer) == ()


def test_a_step_is_the_program_of_pre_training(option, tiny_experiment):
    """So it takes the same time at the same shapes, and needs no objective of its own."""

    def program(experiment):
        mesh = make_mesh(experiment.mesh)
        fields = batch_fields(experiment.objective.fields, experiment.data, experiment.model)
        batch = {name: jax.ShapeDtypeStruct((8, 32), FIELDS[name]) for name in fields}
        state = abstract_state(StateConfig.of(experiment))
        return compile_train_step(experiment, mesh).lower(state, batch).as_text()

    assert program(tiny_experiment(data=option)) == program(tiny_experiment(data__sequence_length=32))
