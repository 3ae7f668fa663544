"""Hugging Face folders and runs, from the recorded models of tests/fixtures/families."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from model.families import model_config
from model.parameters.precision import Precision
from model.transformer import abstract_params
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore
from train.conversion import reading
from train.conversion.run_folder import state_of
from train.data.config import Bytes

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "families"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def published(tmp_path, family="llama", number=0, **config):
    """A folder as on the Hub: weights, config, and a tokenizer whose vocabulary is smaller than the model's."""
    folder = tmp_path / "published"
    shutil.copytree(FIXTURES / family / str(number), folder)
    (folder / "expected.npz").unlink()
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"eos_token_id": 1, "bos_token_id": 0} | config))
    words = {word: i for i, word in enumerate(["<s>", "</s>", "[UNK]", *"abcdefghij"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text("A model.\n")
    return folder


def values_of(family):
    return json.loads((FIXTURES / family / "0" / "config.json").read_text())


def trained_here(run, family, stored_as="float32", **changes):
    """A run of a family's model with parameters of its own, a vocabulary of bytes and a short context."""
    config = model_config(values_of(family))
    precision = Precision(parameters=stored_as, compute=stored_as)
    config = dataclasses.replace(config, vocab_size=257, context_length=32, precision=precision, **changes)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), x.dtype), abstract_params(config))
    experiment = reading._experiment(config, run / "data", Bytes())
    run.mkdir()
    experiments.save(experiment, run)
    reading._write_tokenizer(Bytes(), run / "data")
    with CheckpointStore(run, experiment.checkpoints) as store:
        store.save(experiment, state_of(experiment, params), 0, None)
    return config, params
