"""Text to token ids and back."""

from train.data.tokenizers.interface import StreamDecoder, Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer

__all__ = [
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
    "make_tokenizer",
    "save_tokenizer",
]
