"""Post-training: a model that knows the answers learns to answer, from 150 batches of conversations.

    python -m launch.course post_training
    python -m launch.train --config=configs/course/post_training.py --run=runs/post_training

The second command needs the rows and the model that the first one makes in runs/course/post_training.
"""

import dataclasses

from configs.alignment.sft import experiment as sft
from model.feedforward.mlp import Gated
from train.course.lesson import Command, Lesson, Number, Run
from train.course.numbers import Final
from train.data.conversations.option import Conversations, SeparateConversations
from train.evaluation.named_evaluations import AnswerEvaluation
from train.experiment import Checkpoints, Evaluation, Logging, Samples, Training
from train.schedules import Cosine

BEFORE, AFTER = 900, 150
ROWS = "runs/course/post_training/data"

experiment = dataclasses.replace(
    sft,
    model=dataclasses.replace(sft.model, num_layers=2, width=64, ffn=Gated(width=176)),
    data=Conversations(
        path=f"{ROWS}/conversations.train.jsonl",
        validation=SeparateConversations(path=f"{ROWS}/conversations.test.jsonl"),
        batch_size=16,
        sequence_length=128,
    ),
    training=Training(num_steps=AFTER, init_from="runs/course/post_training/base"),
    schedule=Cosine(peak=1e-3, final=1e-4, warmup_steps=10),
    evaluation=Evaluation(every=AFTER, max_batches=8),
    evaluations=(
        AnswerEvaluation(name="answers", path=f"{ROWS}/prompts.test.jsonl", every=AFTER, num_prompts=64, max_tokens=8),
    ),
    checkpoints=Checkpoints(every=AFTER),
    logging=Logging(tensorboard=False),
    samples=Samples(length=16),
)


def answers(steps: int) -> str:
    """The setting that asks 64 questions at the end."""
    path = '"{here}/data/prompts.test.jsonl"'
    return f'evaluations=(AnswerEvaluation(name="answers", path={path}, every={steps}, num_prompts=64, max_tokens=8),)'


CHAT = (
    "data.path={here}/data/conversations.train.jsonl",
    "data.validation.path={here}/data/conversations.test.jsonl",
    answers(AFTER),
)

lesson = Lesson(
    title="Post-training",
    question="How does a model of text become one that answers?",
    words=(
        "A model of text goes on with a text. Asked a question, it may go on with another question. Supervised "
        "fine-tuning shows it conversations, and counts the loss of the answers alone: the same step, other data.",
        "Here the text is a small language whose right answers are known: `reverse dbca = acbd`. A model is "
        "pre-trained on lines of it, then fine-tuned on conversations. A third model sees the same "
        "conversations, and no text before.",
    ),
    parts=(
        Command(
            "launch.data instructions --path={here}/data "
            '--grammar=\'Instructions(tasks=("copy", "reverse"), length=4)\''
        ),
        Run(
            name="base",
            config="configs/alignment/pretrain_instructions.py",
            settings=(
                "data.path={here}/data/texts.train.jsonl",
                "data.validation.path={here}/data/texts.test.jsonl",
                "model.num_layers=2",
                "model.width=64",
                "model.ffn.width=176",
                f"training.num_steps={BEFORE}",
                "schedule.peak=3e-3",
                "schedule.decay_steps=600",
                "evaluation=Evaluation(every=300, max_batches=16)",
                answers(BEFORE),
                f"checkpoints.every={BEFORE}",
                "logging.tensorboard=False",
            ),
            note="Pre-training on lines of text. Most of the loss is in the random letters of the questions, which no "
            "model can know.",
            samples=True,
        ),
        Run(
            name="run",
            settings=(*CHAT, "training.init_from={here}/base"),
            note="Fine-tuning from that model: the loss counts the answers alone.",
        ),
        Run(
            name="scratch",
            settings=(*CHAT, "training.init_from=None", "data.tokenizer=TokenizerOf(path='{here}/base/data')"),
            note="The same conversations, from weights drawn at random.",
        ),
    ),
    numbers=(
        Number("share of 64 questions answered exactly, after both", Final("run", "answers/accuracy"), 0.98, 2),
        Number("after pre-training alone", Final("base", "answers/accuracy"), 0.00, 2),
        Number("after fine-tuning alone", Final("scratch", "answers/accuracy"), 0.34, 2),
    ),
    answer=(
        "After pre-training the model answers none of 64 questions in a conversation, although it goes on with "
        "`reverse dbca =` rightly: it knows the answers, and not what a conversation is. After 150 batches of "
        "conversations it answers 63 of 64; the same batches without pre-training reach 22: what they teach the first "
        "model is mostly the form.",
        "One seed does not show that. Over four (of both trainings) it was 98%, 100%, 92% and 98% after both, and over "
        "three 34%, 41% and 53% after fine-tuning alone. With 600 steps at a rate of 1e-2 before, the same seed gave "
        "100% on two cores and 0% on one, with the same loss on the text: rounding alone decided. And after 300 "
        "batches fine-tuning alone reaches 100% too (three seeds).",
        "From here `configs/alignment` goes on: preferences, rewards, adapters, on a harder form of the same language.",
    ),
    time="2 min 33 s on one core beside other work",
)
