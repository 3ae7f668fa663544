"""An experiment and a state of it, for tests of checkpoints; a config file."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.train.config_files import CONFIG
from tests.train.states import shardings_on
from train.state import StateConfig, init_sharded


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return tiny_experiment(model__vocab_size=64)


@pytest.fixture(scope="module")
def first(experiment):
    """A state on the host, its moments and counts filled with noise."""
    state_config = StateConfig.of(experiment)
    state = jax.device_get(init_sharded(state_config, 0, shardings_on(experiment)))
    draw = np.random.default_rng(0)

    def noise(x):
        return draw.normal(size=x.shape).astype(x.dtype) if x.dtype.kind == "f" else x + 7

    return dataclasses.replace(state, opt_state=jax.tree.map(noise, state.opt_state), key=state.key)


@pytest.fixture
def config(tmp_path):
    """A function that writes the config, with one piece of its text replaced."""

    def write(old="", new=""):
        assert old in CONFIG
        path = tmp_path / "config.py"
        path.write_text(CONFIG.replace(old, new, 1) if old else CONFIG)
        return str(path)

    return write


@pytest.fixture(scope="session")
def preference_experiment(tiny_experiment, tmp_path_factory):
    """A function that makes an experiment on 24 pairs; takes overrides as `tiny_experiment` does."""
    from train.data.config import Bytes
    from train.data.preferences.option import HeldOutPrompts, NoTemplate, Preferences
    from train.objectives.preference import DPO

    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"{i:02d}", "chosen": "abc"[: 1 + i % 3], "rejected": "xyz"[: 1 + i % 2]} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Preferences(
        path=str(path),
        tokenizer=Bytes(),
        template=NoTemplate(),
        validation=HeldOutPrompts(fraction=0.2),
        batch_size=8,
        sequence_length=8,
        prefetch=2,
    )

    def make(**changes):
        base = {"data": data, "objective": DPO(), "samples__prompts": (), "training__num_steps": 4}
        base |= {"model__num_layers": 1, "model__width": 16, "model__ffn__width": 16}
        every = {"schedule": "Constant(peak=1e-2)", "evaluation__every": 2, "checkpoints__every": 2}
        return tiny_experiment(**base | every | changes)

    return make


@pytest.fixture(scope="session")
def dpo_run(preference_experiment, tmp_path_factory):
    """The folder of a finished run of DPO."""
    from train.loop import train

    run = tmp_path_factory.mktemp("runs") / "dpo"
    train(preference_experiment(), run, say=lambda line: None)
    return run
