"""Direct preference optimisation: the fine-tuned model of instructions prefers right answers to wrong ones.

    python -m launch.train --config=configs/alignment/dpo.py --run=runs/instructions_dpo
    python -m launch.evaluate --run=runs/instructions_dpo --preferences=data/instructions/preferences.test.jsonl
    python -m launch.evaluate --run=runs/instructions_dpo --questions=data/instructions/prompts.test.jsonl

Starts from runs/instructions_sft, which configs/alignment/sft.py makes, and whose log-probabilities are the reference.
In a tenth of the pairs the wrong answer is the chosen one, which label smoothing expects. Its kin are lines away:

    --set 'objective=IPO(tau=0.1)'
    --set 'objective=SimPO()'
    --set 'objective=ORPO()'
    --set 'objective=KTO()' --set data.form=labels

"""

import dataclasses

from configs.alignment.sft import experiment as sft
from train.data.preferences.option import Preferences, SeparatePreferences
from train.evaluation.named_evaluations import AnswerEvaluation
from train.experiment import Checkpoints, Evaluation, Experiment, Training
from train.objectives.preference import DPO
from train.optimizers.options import AdamW
from train.schedules import Cosine

experiment: Experiment = dataclasses.replace(
    sft,
    data=Preferences(
        path="data/instructions/preferences.train.jsonl",
        validation=SeparatePreferences(path="data/instructions/preferences.test.jsonl"),
        batch_size=32,
        sequence_length=64,
    ),
    objective=DPO(beta=0.1, label_smoothing=0.1),
    training=Training(num_steps=250, init_from="runs/instructions_sft"),
    optimizer=AdamW(weight_decay=0.0),
    schedule=Cosine(peak=1e-4, final=1e-5, warmup_steps=20),
    evaluation=Evaluation(every=50),
    evaluations=(
        AnswerEvaluation(name="answers", path="data/instructions/prompts.test.jsonl", every=125, max_tokens=16),
    ),
    checkpoints=Checkpoints(every=125),
)
