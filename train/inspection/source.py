"""Models with an encoder: the source that they read beside a text, and their encoder as a model by itself."""

import dataclasses
from typing import Any

import numpy as np

from model.attention.directions import Bidirectional
from model.errors import UserError
from model.interfaces import AttentionOption
from model.transformer import abstract_params
from train.data.tokenizers.interface import ids_with_end
from train.inspection.subject import Subject
from train.inspection.text import Tokens, encode, token_texts
from train.run.loading import LoadedRun


def subject_of(run: LoadedRun, text: str | None, *, most: int | None = None) -> tuple[Subject, Tokens | None]:
    """The model of a run with the source that its encoder reads, and the tokens of that; None without an encoder.

    Args:
      run: the model.
      text: the text of --source.
      most: the most tokens of it that the instrument looks at; None for as many as the encoder's context holds.

    Raises:
      UserError: for a source that no encoder reads, an encoder without one, and as `Subject.of` does.
    """
    if run.experiment.model.encoder is None:
        if text is not None:
            raise UserError(f"--source: the model of {run.folder} has no encoder to read it; leave it out")
        return Subject.of(run), None
    if text is None:
        raise UserError(
            f"--source is missing: the model of {run.folder} has an encoder, which reads a source; --text is the target"
        )
    source = read_source(run, text, most=most)
    return Subject.of(run, source_S=source.ids), source


def read_source(run: LoadedRun, text: str, *, most: int | None = None) -> Tokens:
    """The tokens of a source, with the mark of its end if the tokenizer has one, as in training.

    Of a longer one the first tokens are taken, the mark stays, and a note says so. Raises UserError for an empty one.
    """
    encoder = run.experiment.model.encoder
    assert encoder is not None
    own = encode(run.tokenizer, text, "source")
    if len(own) == 0:
        raise UserError("--source: the text has 0 tokens, and this needs a token at least; give a longer text")
    end = ids_with_end(run.tokenizer, "")
    limit = min(encoder.context_length, most or encoder.context_length)
    notes: tuple[str, ...] = ()
    if (count := len(own) + len(end)) > limit:
        reason = "the page shows no more" if most == limit else "the encoder's context holds no more"
        kept = max(1, limit - len(end))
        notes = (f"--source: The text has {count:,} tokens; of these the first {kept:,} are read: {reason}.",)
        own = own[:kept]
    ids = np.array([*own, *end], np.int32)[:limit]
    return Tokens(ids, token_texts(run.tokenizer, ids), 0, notes)


def notes_of(source: Tokens | None) -> tuple[str, ...]:
    """The notes on a source, if there is one."""
    return () if source is None else source.notes


def words_on(source: Tokens | None) -> str:
    """How many tokens a source has, for the line about a result; empty without one."""
    return "" if source is None else f", a source of {len(source):,}"


def encoder_of(subject: Subject) -> Subject | None:
    """The encoder of a model as a model by itself, whose every token sees all others and whose text is the source.

    Its stream is what the decoder's layers read. It has the decoder's token table. None for a recurrence, whose tokens
    do not see each other.
    """
    encoder = subject.config.encoder
    assert encoder is not None
    if not isinstance(encoder.mixer, AttentionOption):
        return None
    config = dataclasses.replace(encoder.as_model(subject.config), visibility=Bidirectional())
    own = subject.params["encoder"] | {"embedding": subject.params["embedding"]}
    return Subject(config, _only(abstract_params(config), own), subject.layout)


def _only(wanted: Any, params: Any) -> Any:
    """The parameters that a smaller tree names: the table of an untied embedding without its unembedding."""
    return {name: _only(part, params[name]) for name, part in wanted.items()} if isinstance(wanted, dict) else params
