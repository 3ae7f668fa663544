"""Guesses of the model's own modules of multi-token prediction, which the programs that decode run after each token.

DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 2.3: modules that trained the model to look ahead guess tokens
when it is served. Module k reads the stream of the module before it (of the last layer, for the first) and the token k
places ahead, and guesses the token after that one (model/vocabulary/multi_token.py). It has a cache of its own in the
pages of the text, which it fills as prompts are read and tokens are drawn.

The first module reads the tokens of its text alone, except at the last token of a page that another text filled: what
it holds there is of the other text's next token. A later module also keeps what it read of guesses that were wrong, and
reads 0 for a token after the prompt that is not drawn yet. Both cost right guesses, and change no token.
"""

from collections.abc import Callable, Sequence

from model.config import ModelConfig
from model.errors import UserError
from model.inference.engine.sequence import Sequence as Text
from model.inference.engine.speculation import Modules


class ModulesProposer:
    """Hands on the guesses that came with the last token of each text."""

    num_programs = 0

    def __init__(self, option: Modules, config: ModelConfig) -> None:
        """Raises UserError for a model without as many modules, or whose modules need arrays of its layers."""
        depth = 0 if config.multi_token is None else config.multi_token.depth
        if not depth:
            raise UserError(
                "engine.speculation: Modules() needs modules of multi-token prediction, and the model has none "
                "(model.multi_token=None); take NGram()"
            )
        if option.tokens > depth:
            raise UserError(
                f"engine.speculation.tokens: the model has {depth} modules, and each guesses one token, got "
                f"{option.tokens}; lower it"
            )
        mixer = config.layers[-1].mixer
        if mixer is not None and (mixer.cross_layer_arrays(config.width) or mixer.taken_arrays(config.width)):
            raise UserError(
                f"engine.speculation: the modules of this model have blocks with a {type(mixer).__name__} that takes "
                "arrays of earlier layers (value_residual or kv_from_layer), which are not kept for them; take NGram()"
            )

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Has nothing to compile: the modules are in the programs of the engine."""

    def propose(self, texts: Sequence[Text], counts: Sequence[int]) -> list[list[int]]:
        """See `Proposer`."""
        return [list(text.by_modules[:count]) for text, count in zip(texts, counts, strict=True)]

    def forget(self, text: Text) -> None:
        """Has nothing to forget."""
