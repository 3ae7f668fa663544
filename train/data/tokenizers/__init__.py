"""Text to token ids and back."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    interface="StreamDecoder Tokenizer load_tokenizer make_tokenizer save_tokenizer",
)
