import jax
import numpy as np

from model.transformer import forward
from train.evaluation.probes.induction import Induction
from train.evaluation.probes.interface import Findings, Prepared, Reader, Sequences, generators
from train.evaluation.probes.markov import MarkovChains
from train.evaluation.probing.measure import measure, put_to, reader_of
from train.run.loading import load_run


class Kept(Prepared):
    """Keeps what a model answers."""

    num_symbols = 20

    def __init__(self):
        self.task = Induction(num_symbols_drawn=20, length=15)

    def sequences(self, draws):
        return self.task.sequences(draws)

    def findings(self, made, nll_NT, hits_NT):
        self.seen = made, nll_NT, hits_NT
        return Findings(numbers={}, baselines={}, pictures=())


def test_losses_are_those_of_the_whole_logits(tiny_run):
    """Of 21 sequences, which make no whole batch on eight devices, after the mark that begins documents."""
    run = load_run(tiny_run)
    reader = reader_of(run.experiment, run.tokenizer)
    assert (reader.begin, reader.end, reader.length) == (256, 256, 31)
    probe = Kept()
    calls = []
    measure(run.experiment, run.params, run.layout, probe, reader, num_sequences=21, alive=lambda: calls.append(1))
    made, nll, hits = probe.seen
    assert nll.shape == hits.shape == made.tokens.shape == (21, 15)
    assert calls
    ids = put_to(made, probe, reader)
    logits = forward(run.experiment.model, jax.device_get(run.params), ids.tokens).logits_BTV[:, 1:]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = -np.take_along_axis(log_p, ids.targets[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(nll, expected, atol=2e-5)
    np.testing.assert_array_equal(hits, log_p.argmax(-1) == ids.targets[:, 1:])


def test_sequences_follow_the_mark_and_are_written_in_ids():
    made = Sequences(np.array([[0, 1], [1, 1]]), np.array([[1, 1], [1, 0]]), np.array([[0.0, 1.0], [1.0, 1.0]]))
    reader = Reader(10, 8, begin=9, end=8)
    one, other = reader.ids(2)
    ids = put_to(made, MarkovChains(num_states=2), reader)
    assert ids.tokens.tolist() == [[9, one, other], [9, other, other]]
    assert ids.targets.tolist() == [[one, other, other], [other, other, one]]
    assert ids.weights.tolist() == [[0, 0, 1], [0, 1, 1]]
    plain = put_to(made, MarkovChains(num_states=2), Reader(2, 8, trained_on=MarkovChains(num_states=2)))
    for one, other in zip(plain, made, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_on_a_task_reads_its_symbols(chains_run):
    run = load_run(chains_run[0])
    reader = reader_of(run.experiment, run.tokenizer)
    assert (reader.begin, reader.encode, reader.trained_on) == (None, None, run.experiment.data.task)
    assert len(generators(0, "probe", range(2))) == 2
