"""A course of two lessons in a temporary folder: one trains a tiny model and looks into it, one is a sweep."""

import json

from model.options.json import to_json

LESSON = """import json
from model.options.json import from_json
from train.course.lesson import Command, Lesson, Look, Number, Run, Sweep
from train.course.numbers import Final, Found, Less
from train.experiment import Experiment
from train.lab.ablation import Ablation

experiment = from_json(Experiment, json.loads({experiment!r}))
lesson = Lesson(
    title="A <title>",
    question="Which `question`?",
    words=("Words with `code` & more.",),
    parts=({parts}),
    numbers=({numbers}),
    answer=("An answer.",),
    time="1 s",
)
"""
RUN = 'Run(settings=("data.path={texts}/english.txt",), note="A note."), '
LOOK = 'Look("attention", flags={"text": "the cat", "layers": (0, -1)}, note="Look here.")'
NUMBERS = 'Number("loss", Final("run"), 3.0), Number("distance", Found("attention", "heads/*/distance"), 1.5, 1)'


def write_lesson(folder, experiment, name="first", parts=RUN + LOOK, numbers=NUMBERS, more=""):
    """Writes a config file with a lesson."""
    text = LESSON.format(experiment=json.dumps(to_json(experiment)), parts=f"{parts},", numbers=f"{numbers},")
    path = folder / f"{name}.py"
    path.write_text(text + more, encoding="utf-8")
    return str(path)
