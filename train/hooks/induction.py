"""The rise of induction heads during a run: scores of heads, and the loss late in the context less that early in it."""

import math

import numpy as np

from model.errors import UserError
from train.evaluation.named_evaluations import InductionEvaluation
from train.evaluation.probing.measure import reader_of
from train.evaluation.token_scores import compile_token_scores
from train.hooks.interface import Hook, Session, StepInfo
from train.inspection.attention.scores import repeated_tokens, scorer
from train.inspection.subject import Subject, refuse_unreadable
from train.parallel import feed
from train.state import evaluation_params
from train.terminal.formatting import format_fixed


class InductionHook(Hook):
    """Measures what `InductionEvaluation` says."""

    compiles = True
    activity = "evaluation"

    def __init__(self, session: Session, option: InductionEvaluation) -> None:
        """Args: the session, the option.

        Raises UserError for a model without heads, with an encoder, and in stages of a pipeline.
        """
        self.every, self._option, self._session = option.every, option, session
        experiment = session.experiment
        try:
            refuse_unreadable(experiment.model, session.layout, str(session.folder))
            repeated = repeated_tokens(reader_of(experiment, session.dataset.tokenizer), rows=option.num_sequences)
            self._heads = scorer(Subject(experiment.model, None, session.layout), repeated)
        except UserError as error:
            raise UserError(f"evaluations ({option.name}): {error}") from None
        self._rows = session.layout.placement(("batch", "sequence"))
        rows = feed.local_rows(self._rows, experiment.data.batch_size)
        self._batches = experiment.data.evaluation_batches(session.dataset, "validation", option.max_batches, rows)
        self._score = compile_token_scores(experiment.model, session.layout)

    def __call__(self, info: StepInfo) -> None:
        """See `Hook`. A line has the best head's score of each role, and the losses where there are such tokens."""
        params = evaluation_params(self._session.experiment.optimizer, info.state)
        heads = self._heads(params)
        layer, head = heads.best("repeated")[1:]
        values = {role: heads.best(role)[0] for role in heads.by_role}
        copying, *copier = heads.best("copying")
        offset = int(heads.offsets[copier[0]][copier[1]])
        values |= {"induction_layer": layer, "induction_head": head, "copying_offset": offset} | self._losses(params)
        name, session = self._option.name, self._session
        session.metrics.evaluation(info.step, values, name=name)
        gain = values.get("in_context")
        words = "" if gain is None else f", loss late less early in the context {format_fixed(gain)}"
        elsewhere = f", {format_fixed(copying)} at {offset} after the copy" if offset != 1 else ""
        session.say(
            f"step {info.step}: {name}: best induction score {format_fixed(values['repeated'])} (layer {layer}, head "
            f"{head}){elsewhere}{words}"
        )

    def _losses(self, params: object) -> dict[str, float]:
        """The mean losses of the late and the early token, and their difference; empty without such tokens."""
        experiment, option = self._session.experiment, self._option
        isolated = feed.needs_segments(experiment.data, experiment.model)
        sums: dict[str, list[float]] = {"late": [], "early": []}
        for batch in self._batches:
            nll, _ = self._score(params, feed.to_devices(batch, self._rows, experiment.data.batch_size, isolated))
            nll_BT = np.asarray(nll, np.float64)
            columns = np.broadcast_to(np.arange(nll_BT.shape[1]), nll_BT.shape)
            places = batch["positions"] if isolated else columns
            for name, place in (("late", option.late), ("early", option.early)):
                sums[name] += nll_BT[(places == place - 1) & (batch["weights"] > 0)].tolist()
            self._session.alive()
        if not all(sums.values()):
            return {}
        late, early = (math.fsum(sums[name]) / len(sums[name]) for name in ("late", "early"))
        return {"late_loss": late, "early_loss": early, "in_context": late - early}
