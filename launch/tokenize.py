"""Turns text into record shards that launch.train reads.

    python -m launch.tokenize --input='books/**/*.txt' --output=data/books --tokenizer=sentencepiece --vocab_size=16384
    python -m launch.tokenize --input=pages.jsonl --field=body --output=data/pages --tokenizer=data/books
    python -m launch.tokenize --input='/shared/web/*.jsonl.zst' --output=/shared/data/web --engine=ray

The input is a text file, a folder, a glob, a .jsonl, .json or .parquet file, `hf:NAME[:CONFIG[:SPLIT]]` for a Hugging
Face dataset, or `stdlib` for Python's own sources. Files may be compressed (.gz, .bz2, .xz, .zst). Run folders, dataset
folders and other files that Cairn wrote are left out. An interrupted command continues from its finished shards when it
is given again; its exit status is 75 after SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU, 130 after Ctrl-C. The shards
do not depend on the number of workers, nor on the machines of a Ray cluster that run them (--engine=ray): those must
find the text, the folder and Cairn under the same paths. Train on them with --set data.path=OUTPUT --set
data.tokenizer=None --set data.validation=None.
"""

from typing import cast

from absl import flags

from launch.command import cli
from model.errors import UserError
from model.options.assignments import parse_value
from model.options.tree import check
from train.data import config
from train.files.paths import user_path

INPUT = cli.define_path("input", None, "The text: a file, a folder, a glob, hf:NAME, or stdlib.")
FIELD = flags.DEFINE_string("field", "text", "The field with the text, in jsonl, json, parquet and hf datasets.")
OUTPUT = cli.define_path("output", None, "The dataset folder to make or to continue.")
TOKENIZER = cli.define_path(
    "tokenizer",
    "sentencepiece",
    "sentencepiece (trained here), bytes or characters; a SentencePiece .model or a tokenizer.json; a dataset folder,"
    " to take its tokenizer; or an option written out, such as \"HuggingFace(path='t.json', end_of_document='</s>')\".",
)
VOCAB_SIZE = flags.DEFINE_integer(
    "vocab_size", None, "The pieces of a SentencePiece model trained here; 4096 when not given."
)
VALIDATION = cli.define_path(
    "validation",
    "0.08",
    "What to hold out: a share of the bytes, in whole documents; none; the path of a validation text; or an option"
    " written out, such as Tail(fraction=0.1).",
)
WORKERS = flags.DEFINE_integer("workers", None, "The number of processes; one per core when not given.", lower_bound=1)
ENGINE = flags.DEFINE_enum(
    "engine", "processes", ["processes", "ray"], "Where they run: on this machine, or on a Ray cluster (extra `ray`)."
)


def main(argv: list[str]) -> int:
    """Reads the flags and prepares the dataset."""
    if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; the text is given by --input")
    source, folder = INPUT.value, OUTPUT.value
    if not source or not folder:
        missing = "output, the dataset folder to make," if source else "input, the text to tokenize,"
        raise UserError(f"--{missing} is missing; see python -m launch.tokenize --help")
    from train.data.interface import Engine
    from train.data.prepare.prepare import prepare
    from train.data.prepare.progress import TerminalReporter
    from train.data.prepare.summary import summary
    from train.data.shards.dataset import is_dataset

    if is_dataset(source):
        raise UserError(f"--input={source} is tokenized already; give its folder to launch.train as data.path")
    data = config.Data(
        path=(config.Source(path=source, field=FIELD.value),),
        tokenizer=tokenizer_option(TOKENIZER.value, VOCAB_SIZE.value),
        validation=validation_option(VALIDATION.value, FIELD.value),
    )
    check(data)
    try:
        engine = cast(Engine, ENGINE.value)
        prepared = prepare(data, folder, TerminalReporter(), WORKERS.value, engine=engine)
    except UserError as error:
        raise UserError(with_flag_names(str(error))) from error
    print(summary(prepared))
    return 0


def with_flag_names(message: str) -> str:
    """A message about fields of `Data`, with the flags that stand for them here."""
    fields = {"data.tokenizer.vocab_size": "--vocab_size", "data.validation": "--validation"}
    for field, flag in fields.items():
        message = message.replace(field, flag)
    return message


def tokenizer_option(text: str, vocab_size: int | None) -> config.Tokenizer | config.TokenizerOf:
    """The option that --tokenizer and --vocab_size stand for. Raises UserError for any other value."""
    by_name: dict[str, config.Tokenizer | config.TokenizerOf] = {
        "sentencepiece": config.SentencePiece() if vocab_size is None else config.SentencePiece(vocab_size=vocab_size),
        "bytes": config.Bytes(),
        "characters": config.Characters(),
    }
    path = user_path(text)
    suffix = path.suffix.lower()
    option = by_name.get(text.lower())
    if option is None and path.is_dir():
        option = config.TokenizerOf(path=text)
    elif option is None and suffix == ".model":
        option = config.SentencePieceFile(path=text)
    elif option is None and suffix == ".json":
        option = config.HuggingFace(path=text)
    elif option is None:
        option = parse_value(text, config.Tokenizer, "--tokenizer")
    if not isinstance(option, config.Tokenizer | config.TokenizerOf):
        raise UserError(
            f"--tokenizer={text}: expected {', '.join(by_name)}, a .model or .json file, a dataset folder, or an option"
            " such as 'SentencePiece(vocab_size=8192)'"
        )
    if vocab_size is not None and text.lower() != "sentencepiece":
        raise UserError(
            f"--vocab_size is for a SentencePiece model that is trained here; --tokenizer={text} has its own size"
        )
    return option


def validation_option(text: str, field: str) -> config.Validation | None:
    """The option that --validation stands for. Raises UserError for any other value."""
    if user_path(text).exists():
        return config.SeparateText(path=text, field=field)
    value = parse_value(text, config.Validation | None, "--validation")
    if value is None or text.lower() == "none":
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return config.HeldOutDocuments(fraction=float(value))
    if isinstance(value, (config.HeldOutDocuments, config.Tail, config.SeparateText)):
        return value
    raise UserError(
        f"--validation={text}: expected a share such as 0.08, none, the path of a text, or an option such as"
        " 'Tail(fraction=0.1)'"
    )


if __name__ == "__main__":
    cli.run(main, may_be_empty=("field",))
