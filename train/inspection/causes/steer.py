"""Makes a steering vector: the mean stream over positive texts less that over negative ones, after each layer."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.errors import UserError
from model.options.words import nearest
from model.taps.request import Tap
from model.transformer import stream
from train.inspection.causes.steering import FILE, SteeringVector
from train.inspection.choice import layer_in
from train.inspection.result import Result, Table
from train.inspection.stream.readout import lens
from train.inspection.subject import Subject
from train.inspection.text import read, token_texts
from train.run.loading import LoadedRun

BEGIN = 0.2  # of the norm of the stream: a size to begin with
POOLS = ("mean", "last")
TOP = 10


def inspect(
    run: LoadedRun,
    *,
    positive: Sequence[str],
    negative: Sequence[str],
    layer: int | None = None,
    pool: str = "mean",
) -> Result:
    """A steering vector from contrasting texts, for `launch.generate --steer`.

    Args:
      run: the model.
      positive: texts of the direction to go to.
      negative: texts of the opposite direction.
      layer: the layer after which the vector is added; None for the middle one.
      pool: "mean" over the tokens of a text, or its "last" token.
    """
    subject = Subject.of(run)
    config = subject.config
    if pool not in POOLS:
        raise UserError(f"--pool={pool[:40]!r}: expected mean or last; {nearest(pool, POOLS)}")
    if not config.residual.one_vector:
        raise UserError(f"residual={type(config.residual).__name__} has several streams, which no one vector steers")
    chosen = (config.num_layers - 1) // 2 if layer is None else layer_in(config, layer)
    means = {
        flag: _means(run, subject, texts, pool, flag)
        for flag, texts in (("positive", positive), ("negative", negative))
    }
    (ups, cut), (downs, cut_too) = means["positive"], means["negative"]
    difference_LD = ups.mean(0) - downs.mean(0)
    if not difference_LD[chosen].any():
        raise UserError("--positive and --negative have the same activations, so their difference steers nowhere")
    size_L = np.linalg.norm(np.concatenate([ups, downs]), axis=-1).mean(0)
    vector = SteeringVector(difference_LD[chosen], chosen, config.num_layers)
    right = _separated(ups, downs)
    scale = BEGIN * size_L[chosen] / np.linalg.norm(vector.vector_D)
    return Result(
        title="Steering vector",
        about=f"{run.folder}, step {run.step:,} \u00b7 {len(positive)} positive and {len(negative)} negative "
        f"texts \u00b7 after layer {chosen}",
        numbers={
            "layer": chosen,
            "pool": pool,
            "norm": np.linalg.norm(difference_LD, axis=-1),
            "norm_of_the_stream": size_L,
            "separated": right,
            "positive": list(positive),
            "negative": list(negative),
        },
        arrays={"differences": difference_LD, "vector": vector.vector_D},
        parts=[_layers(difference_LD, size_L, right, chosen), _tokens(run, subject, vector)],
        notes=[*cut, *cut_too],
        lines=[
            f"layer {chosen}: norm {np.linalg.norm(vector.vector_D):.3f}, of the stream {size_L[chosen]:.3f}",
            f"in launch.generate --steer=FOLDER:SCALE {scale:.2g} adds a fifth of the stream's norm: begin there",
        ],
        savers={FILE: vector.save},
    )


def _means(
    run: LoadedRun, subject: Subject, texts: Sequence[str], pool: str, flag: str
) -> tuple[np.ndarray, list[str]]:
    """The stream of each text after each layer, a mean over its tokens or that of the last one, (texts, L, D).

    Beside it sentences on texts that were cut.
    """

    def pooled(params: Any, tokens_BT: jax.Array) -> jax.Array:
        taps = stream(subject.config, params, tokens_BT, layout=subject.layout, taps=(Tap("block_output"),)).taps
        x_LTD = taps["block_output"][:, 0].astype(jnp.float32)
        return x_LTD[:, -1] if pool == "last" else jnp.mean(x_LTD[:, min(begins, x_LTD.shape[1] - 1) :], axis=1)

    if not texts:
        raise UserError(f"--{flag} has no text; give one at least")
    found, notes = [], []
    begins = 0 if run.tokenizer.begin_of_document is None else 1
    call = subject.compiled(pooled)
    for text in texts:
        tokens = read(run, text, flag=flag)
        found.append(call(tokens.ids[None]))
        notes += [f"--{flag}={text[:40]!r}: {note}" for note in tokens.notes]
    return np.stack(found), notes


def _separated(ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
    """The share of texts on their side of the middle, by layer, with a vector from all other texts."""
    if len(ups) < 2 or len(downs) < 2:
        return np.full(ups.shape[1], np.nan)
    right = np.zeros(ups.shape[1])
    for own, other in ((ups, downs), (downs, ups)):
        for i in range(len(own)):
            mean, against = np.delete(own, i, axis=0).mean(0), other.mean(0)
            side = ((own[i] - (mean + against) / 2) * (mean - against)).sum(-1)
            right += side > 0
    return right / (len(ups) + len(downs))


def _layers(difference_LD: np.ndarray, size_L: np.ndarray, right: np.ndarray, chosen: int) -> Table:
    norms = np.linalg.norm(difference_LD, axis=-1)
    rows = [
        [
            f"{n}" + (" (the vector)" if n == chosen else ""),
            f"{norm:.3f}",
            f"{norm / size:.1%}",
            "\u2013" if np.isnan(share) else f"{share:.0%}",
        ]
        for n, (norm, size, share) in enumerate(zip(norms, size_L, right, strict=True))
    ]
    return Table(
        title="The difference of the means, layer by layer",
        head=["after layer", "norm", "of the stream", "texts on their side"],
        rows=rows,
        caption="The last column takes each text in turn, and asks the vector of all other texts for its side"
        + ("; a side of one text has no other, so it takes two texts a side." if np.isnan(right).any() else "."),
    )


def _tokens(run: LoadedRun, subject: Subject, vector: SteeringVector) -> Table:
    """The tokens whose logits the lens gives to the vector and to its opposite."""
    read_V = subject.compiled(
        lambda params, x: lens(subject.config, params, x, subject.layout)[0, 0].astype(jnp.float32)
    )
    columns = []
    for sign in (1, -1):
        x = jnp.asarray(sign * vector.vector_D, subject.config.precision.compute)
        order = np.argsort(-read_V(x[None, None]))[:TOP]
        columns.append([repr(text) for text in token_texts(run.tokenizer, order)])
    return Table(
        title="Tokens that the vector points to",
        head=["rank", "along the vector", "against it"],
        rows=[[str(rank), one, other] for rank, (one, other) in enumerate(zip(*columns, strict=True), start=1)],
        caption="The likeliest tokens of the logit lens, as if the vector were the stream.",
    )
