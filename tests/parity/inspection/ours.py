"""The numbers of Cairn that are compared with TransformerLens, from a Hugging Face folder without a tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np

from model.taps.request import Tap
from train.conversion.reading import open_published, read_params
from train.inspection.attention.scores import RepeatedTokens, measure
from train.inspection.causes.patch import Question, patch
from train.inspection.stream.parts import attribute
from train.inspection.subject import Subject

HALF = 12
PATCHED = {"block_output": [0], "mixer_output": [0, 1], "ffn_output": [0, 1], "mixer_heads": [0, 1]}


def subject_of(folder):
    """The model in a folder, on one device."""
    opened = open_published(folder, folder / "data")
    params = read_params(opened.folder, opened.family, opened.tensors, opened.experiment)
    return Subject(opened.experiment.model, jax.tree.map(jnp.asarray, jax.device_get(params)))


def compared(folder, asked):
    """Scores, patches and shares, by the names of compare.py."""
    model = subject_of(folder)
    repeated = RepeatedTokens(asked["repeated"], HALF, 0)
    scores = measure(model, repeated).by_role
    found = {role: np.stack(list(scores[role].values())) for role in ("previous_token", "duplicate_token", "induction")}
    # Their diagonal has one more query, the last of the first half.
    weights = model.taps(asked["repeated"], Tap("attention_weights"))["attention_weights"]
    before = weights[:, :, :, HALF - 1, 0].mean(1)
    ours = np.stack(list(scores["repeated"].values()))
    found["diagonal"] = (ours * HALF + before) / (HALF + 1)
    answer, wrong = map(int, asked["answers"])
    question = Question(asked["clean"], asked["corrupt"], answer, wrong)
    places = list(range(len(asked["clean"])))
    for name, layers in PATCHED.items():
        effects = patch(model, question, name, layers, places)[0].patched
        found[f"patch_{name}"] = np.nan_to_num(np.stack(list(effects.values())))
    shares = attribute(model, asked["clean"], len(places) - 1, answer, wrong)
    found["share_heads"] = np.concatenate([x for x, _ in shares.heads.values()])
    found["share_parts"] = np.array(list(shares.parts.values()))
    return found
