"""Text to batches: text -> sources -> tokenizers -> shards -> packing -> pipeline, with random access throughout.

Importing this package needs only numpy; grain, array_record and the tokenizers' libraries are imported where they are
used.
"""

from train.data.batches.pipeline import Batches, EvaluationBatches
from train.data.batches.rows import DocumentSpan
from train.data.config import (
    BestFit,
    Bytes,
    Characters,
    Concatenate,
    Data,
    HeldOutDocuments,
    HuggingFace,
    Numbers,
    SentencePiece,
    SentencePieceFile,
    SeparateText,
    Source,
    Tail,
    TokenizerOf,
)
from train.data.prepare.prepare import prepare
from train.data.prepare.progress import Reporter, TerminalReporter
from train.data.shards.dataset import Dataset, Split, is_dataset, open_dataset
from train.data.tokenizers.interface import StreamDecoder, Tokenizer, load_tokenizer, make_tokenizer, save_tokenizer

__all__ = [
    "Batches",
    "BestFit",
    "Bytes",
    "Characters",
    "Concatenate",
    "Data",
    "Dataset",
    "DocumentSpan",
    "EvaluationBatches",
    "HeldOutDocuments",
    "HuggingFace",
    "Numbers",
    "Reporter",
    "SentencePiece",
    "SentencePieceFile",
    "SeparateText",
    "Source",
    "Split",
    "StreamDecoder",
    "Tail",
    "TerminalReporter",
    "Tokenizer",
    "TokenizerOf",
    "is_dataset",
    "load_tokenizer",
    "make_tokenizer",
    "open_dataset",
    "prepare",
    "save_tokenizer",
]
