"""Samples during training: a text for every prompt, at every evaluation."""

from train.generation.samples import draw_samples
from train.hooks.interface import Hook, Session, StepInfo
from train.state import evaluation_params


class SamplesHook(Hook):
    """Draws texts from the model and writes them to samples.txt."""

    compiles = True

    def __init__(self, session: Session) -> None:
        """Args: the session of an experiment with prompts."""
        self.every, self._session = session.experiment.evaluation.every, session

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`. The step is the seed, so a resumed run draws the same texts."""
        experiment = self._session.experiment
        drawn = draw_samples(
            experiment,
            evaluation_params(experiment.optimizer, info.state),
            experiment.samples.prompts,
            tokenizer=self._session.dataset.tokenizer,
            seed=info.step,
            layout=self._session.layout,
        )
        for sample in drawn:
            self._session.metrics.sample(info.step, sample.text)
