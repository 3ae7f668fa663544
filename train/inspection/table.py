"""The table of instruments. A new instrument is a row of `INSTRUMENTS`, with the flags that its function takes.

The module of a row has a function `inspect(run, *, ...) -> Result` whose keyword arguments are the flags of the row. A
flag that is not given is not passed: defaults are those of the function, and an argument without one is needed.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from model.errors import UserError
from model.options.words import nearest
from train.inspection.result import Result


class Flag(NamedTuple):
    """A flag: the form of its value, its help, and the smallest number of one that has a bound."""

    kind: Literal["text", "texts", "path", "integer", "integers", "number", "word", "words", "switch"]
    help: str
    least: int | None = None


class Instrument(NamedTuple):
    """An instrument: the module with its function, one line about it, the names of its flags.

    The function of one that `reads_weights` not gets a tokenizer (vocabulary/tokens.py) in place of a run, and that of
    one that `needs_run` not gets None. One that `takes_folder` gets the folder of --output too, as `folder`.
    """

    module: str
    summary: str
    flags: tuple[str, ...]
    reads_weights: bool = True
    takes_folder: bool = False
    needs_run: bool = True


FLAGS: dict[str, Flag] = {
    "text": Flag("text", "The text to look at; the target of a model with an encoder."),
    "source": Flag("text", "The source that an encoder reads, for a model that has one."),
    "half": Flag("integer", "The random tokens that are repeated; as many as the context holds, 128 at most."),
    "sequences": Flag("integer", "Rows of random tokens, or chains.", 1),
    "seed": Flag("integer", "The seed of random choices.", 0),
    "tuned": Flag("switch", "Trains a tuned lens, and shows it beside the logit lens."),
    "steps": Flag("integer", "The steps of a training.", 1),
    "corpus": Flag("text", "The text to train on; the run's own when not given."),
    "position": Flag("integer", "The number of a token of the text, from 0, -1 for the last."),
    "answer": Flag("text", "The text of the token whose logit is taken; the likeliest one when not given."),
    "wrong": Flag("text", "The text of a token whose logit is taken off that of the answer."),
    "taps": Flag("words", "The taps to replace, such as mixer_output,mixer_heads (model/README.md lists them)."),
    "positions": Flag(
        "integers",
        "The tokens to replace activations at, from 0, such as 3,-1; maps of patches show a sample of over 64.",
    ),
    "by": Flag("word", "What replaces an activation: zero, mean or resample."),
    "reference": Flag(
        "text", "The text of means (as much as the context holds) and of other activations; by default the text itself."
    ),
    "corrupt": Flag("text", "A text of as many tokens as --text, with another answer."),
    "positive": Flag("texts", "A text of the direction to steer to; may be given many times."),
    "negative": Flag("texts", "A text of the opposite direction; may be given many times."),
    "layer": Flag(
        "integer",
        "A layer, from 0, -1 for the last: of the tap, of the receiver, or after which a vector is added (by default "
        "the middle one).",
    ),
    "pool": Flag("word", "mean, of the tokens of each text, or last, for its last token."),
    "config": Flag("path", "The config file, such as configs/inspection/sae.py."),
    "set": Flag("texts", "Changes an option of the config, such as num_steps=100; may be given many times."),
    "hard_stop": Flag("integer", "The step to end at, without a change of the schedule.", 1),
    "autoencoder": Flag("path", "The folder of an autoencoder: cfg.json and sae_weights.safetensors."),
    "tap": Flag("word", "The tap to read, such as ffn_hidden (model/README.md lists them)."),
    "units": Flag("integers", "The numbers of features or neurons, such as 3,17; a random sample when not given."),
    "batches": Flag("integer", "Batches to read: of the validation split, and of the training data for probes.", 1),
    "skip": Flag("integer", "Tokens at the start of documents to leave out.", 0),
    "examples": Flag("integer", "Texts of each neuron.", 1),
    "features": Flag("integer", "Features of a toy model.", 1),
    "dimensions": Flag("integer", "Dimensions of a toy model.", 1),
    "grid": Flag("integer", "Sparsities, and importances, of the phase diagram.", 1),
    "task": Flag("word", "The labels to probe for: previous, next, kind or position."),
    "words": Flag("words", "Words, such as king,queen."),
    "table": Flag("word", "Whose vectors: embedding or unembedding."),
    "top": Flag("integer", "How many to show.", 1),
    "analogies": Flag("texts", "Four words, a is to b as c is to d: 'man woman king queen'. May be given many times."),
    "checkpoints": Flag("words", "The steps to show, such as 100,200,300."),
    "against": Flag("path", "The folder of a second tokenizer: a run, a dataset or a Hugging Face folder."),
    "receiver": Flag("word", "The end of a path: logits, or query, key or value of --layer."),
    "heads": Flag("words", "The heads to look at, or to replace, such as 0.2,1.4: the layer and the head, from 0."),
    "layers": Flag("integers", "The layers to look at, from 0, such as 0,3,-1; all when not given."),
}

INSTRUMENTS: dict[str, Instrument] = {
    "tokens": Instrument(
        "train.inspection.vocabulary.tokens",
        "what a tokenizer does to a text, or two of them: pieces, bytes a token by script, letters",
        ("text", "against", "words"),
        reads_weights=False,
    ),
    "neighbours": Instrument(
        "train.inspection.vocabulary.neighbours",
        "the nearest neighbours of words in the embedding or the unembedding, at one checkpoint or over several",
        ("words", "table", "top", "checkpoints"),
    ),
    "analogies": Instrument(
        "train.inspection.vocabulary.analogies",
        "analogies such as king - man + woman, with a score over a list, at one checkpoint or over several",
        ("analogies", "table", "checkpoints"),
    ),
    "map": Instrument(
        "train.inspection.vocabulary.map",
        "the vectors of tokens in two dimensions, at one checkpoint or over several",
        ("text", "table", "checkpoints"),
    ),
    "attention": Instrument(
        "train.inspection.attention.maps",
        "maps of attention by layer and head over a text, entropy and distance by head",
        ("text", "source", "layers", "heads"),
    ),
    "heads": Instrument(
        "train.inspection.attention.roles",
        "roles of heads on repeated random tokens: previous token, duplicate token, induction, first token",
        ("half", "sequences", "seed"),
    ),
    "lens": Instrument(
        "train.inspection.stream.lens",
        "logit lens and tuned lens: the prediction after every layer, at each token of a text",
        ("text", "source", "tuned", "steps", "corpus", "seed"),
    ),
    "logits": Instrument(
        "train.inspection.stream.attribution",
        "direct logit attribution: the shares of sublayers, heads and neurons in a logit",
        ("text", "source", "position", "answer", "wrong"),
    ),
    "stream": Instrument(
        "train.inspection.stream.path",
        "norms of the residual stream by layer, and the path of a logit from the embedding on",
        ("text", "source", "position", "answer"),
    ),
    "ablate": Instrument(
        "train.inspection.causes.ablate",
        "the rise of the loss when sublayers or heads are replaced by zero, a mean, or other activations",
        ("text", "source", "taps", "layers", "heads", "positions", "by", "reference", "seed"),
    ),
    "patch": Instrument(
        "train.inspection.causes.patch",
        "activation patching between a clean and a corrupt text, and its estimate by gradients",
        ("text", "corrupt", "source", "answer", "wrong", "taps", "layers", "positions"),
    ),
    "features": Instrument(
        "train.inspection.features.training.train",
        "trains sparse autoencoders and transcoders on the activations of the model",
        ("config", "set", "hard_stop"),
        takes_folder=True,
    ),
    "feature-texts": Instrument(
        "train.inspection.features.pages.features",
        "features of an autoencoder: top texts, logits promoted and suppressed, densities",
        ("autoencoder", "tap", "layer", "units", "batches", "skip", "seed"),
    ),
    "neurons": Instrument(
        "train.inspection.features.pages.neurons",
        "neurons, or the entries of any tap: top texts, logits, densities",
        ("tap", "layer", "units", "batches", "examples", "seed"),
    ),
    "probe": Instrument(
        "train.inspection.probes.probe",
        "linear probes on a tap by layer, with a control task and an interval",
        ("task", "tap", "layers", "batches", "seed"),
    ),
    "fourier": Instrument(
        "train.inspection.tasks.fourier",
        "the waves of a model of modular addition (configs/modular_addition.py)",
        (),
    ),
    "markov": Instrument(
        "train.inspection.tasks.markov",
        "the heads of a model of Markov chains: where they attend, the loss without them (configs/markov_chains.py)",
        ("sequences", "seed"),
    ),
    "superposition": Instrument(
        "train.inspection.superposition.phases",
        "toy models of superposition: features represented against sparsity; needs no --run",
        ("features", "dimensions", "steps", "grid", "seed"),
        needs_run=False,
    ),
    "paths": Instrument(
        "train.inspection.causes.paths",
        "path patching: the effect of each head on the logits or on a later layer's queries, keys or values",
        ("text", "corrupt", "answer", "wrong", "receiver", "layer"),
    ),
    "steer": Instrument(
        "train.inspection.causes.steer",
        "a steering vector from contrasting texts, for launch.generate --steer",
        ("positive", "negative", "layer", "pool"),
    ),
}


def find(name: str) -> Instrument:
    """The instrument of a name. Raises UserError, with the nearest name, for an unknown one."""
    if name not in INSTRUMENTS:
        raise UserError(
            f"no instrument is called {name[:80]!r}, and `python -m launch.inspect` lists them; "
            f"{nearest(name, INSTRUMENTS)}"
        )
    return INSTRUMENTS[name]


def function_of(instrument: Instrument) -> Callable[..., Result]:
    """The function of an instrument."""
    function: Callable[..., Result] = importlib.import_module(instrument.module).inspect
    return function


def needed(instrument: Instrument) -> list[str]:
    """The flags that the function of an instrument cannot do without."""
    parameters = inspect.signature(function_of(instrument)).parameters
    return [name for name in instrument.flags if parameters[name].default is inspect.Parameter.empty]


def taken_by(instrument: Instrument) -> str:
    """The flags of an instrument, for messages."""
    return ", ".join(f"--{each}" for each in instrument.flags) or "none"


def refuse(name: str, given: Mapping[str, Any]) -> None:
    """Raises UserError for flags that an instrument does not take, numbers that are too small, and missing flags."""
    instrument = find(name)
    for flag in given:
        if flag not in instrument.flags:
            raise UserError(f"--{flag} has no effect with {name}, which takes {taken_by(instrument)}; leave it out")
        least = FLAGS[flag].least
        if least is not None and given[flag] < least:
            raise UserError(f"--{flag} must be at least {least}, got {given[flag]}")
    for flag in needed(instrument):
        if flag not in given:
            meaning = FLAGS[flag].help
            raise UserError(f"--{flag} is missing, which {name} needs: {meaning[0].lower()}{meaning[1:].rstrip('.')}")


def listing() -> str:
    """The names of all instruments, with a line about each."""
    width = max(map(len, INSTRUMENTS))
    return "\n".join(f"  {name:<{width}}  {each.summary}" for name, each in INSTRUMENTS.items())
