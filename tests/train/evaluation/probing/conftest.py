"""A run of a few steps on Markov chains, with a probe as an evaluation; and what it said."""

import pytest

from train.data.generated import Generated
from train.evaluation.named_evaluations import ProbeEvaluation
from train.evaluation.probes.markov import MarkovChains
from train.loop import train

TASK = MarkovChains(length=20)


@pytest.fixture(scope="package")
def on_chains(tiny_experiment):
    """An experiment on Markov chains without text."""
    return tiny_experiment(
        data=Generated(task=TASK, batch_size=8, validation_batches=2),
        model__vocab_size=3,
        model__num_layers=1,
        model__ffn="None",
        model__width=16,
        evaluations=(ProbeEvaluation(name="chains", probe=TASK, every=4, num_sequences=16),),
        training__num_steps=6,
        schedule__warmup_steps=0,
        checkpoints__every=3,
        evaluation__every=3,
        samples__prompts=("0 1",),
    )


@pytest.fixture(scope="package")
def chains_run(on_chains, tmp_path_factory):
    """Its finished run, which was stopped after step 3 and continued."""
    folder, said = tmp_path_factory.mktemp("chains") / "run", []
    assert train(on_chains, folder, hard_stop=3, say=said.append).state == "stopped"
    assert train(on_chains, folder, say=said.append).state == "finished"
    return folder, said
