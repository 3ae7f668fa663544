"""Compares perplexities with `transformers` and torch, live, and prints a table:

    python -m tests.parity.evaluation.perplexity

For small random models of several families with a byte-level tokenizer, written as a Hugging Face folder that is read
directly: the perplexity of the strided loop in the documentation of `transformers` ("Perplexity of fixed-length
models", windows and weights as there), and the sum of the rolling loglikelihoods of lm-eval, whose windows are written
out here. Exits with status 1 when a relative difference is over 1e-4.
"""

import math
import pathlib
import sys
import tempfile

import numpy as np

from tests.benchmarks.command import answer_help, require_torch

answer_help(__name__, __doc__)
require_torch("parity")
import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from train.conversion.loading import load_model  # noqa: E402
from train.evaluation.documents import from_text  # noqa: E402
from train.evaluation.evaluate import evaluate  # noqa: E402

BOUND = 1e-4
TEXT = "The quick brown fox — naïve, as ever — jumps over\nthe lazy dog; 東京 waits. " * 4
WINDOWS = [(32, 5), (32, 13), (32, 32), (48, 24)]
VOCABULARY, CONTEXT = 300, 64
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": CONTEXT},
    "qwen3": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT},
}  # fmt: skip


def make(family, folder, marked):
    """Writes a random model in float32 and a tokenizer, which puts a mark before each text if `marked`."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if marked:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    config = transformers.AutoConfig.for_model(
        family, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, pad_token_id=None, **FAMILIES[family]
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim > 1:
                x.mul_(8.0 if "embed" in name or "wte" in name else 4.0)
    model.save_pretrained(folder)
    return model, fast


def documented(model, fast, max_length, stride):
    """The perplexity of the documentation's loop."""
    encodings = fast(TEXT, return_tensors="pt")
    seq_len = encodings.input_ids.size(1)
    total, count, previous = 0.0, 0, 0
    for begin in range(0, seq_len, stride):
        end = min(begin + max_length, seq_len)
        labelled = end - previous
        input_ids = encodings.input_ids[:, begin:end]
        target_ids = input_ids.clone()
        target_ids[:, :-labelled] = -100
        with torch.no_grad():
            loss = model(input_ids, labels=target_ids).loss.item()
        tokens = int((target_ids != -100).sum()) - target_ids.size(0)  # less one for the shift of the labels
        if tokens:
            total, count = total + loss * tokens, count + tokens
        previous = end
        if end == seq_len:
            break
    return math.exp(total / count)


def rolling(model, fast, max_length, context):
    """The sum of lm-eval's rolling loglikelihoods: each window's input, and the tokens that it predicts."""
    tokens, prefix = fast.encode(TEXT, add_special_tokens=False), fast.bos_token_id
    windows, done = [], 0
    while done < len(tokens):
        most = max_length if not done else max_length - context + 1
        end = min(done + most, len(tokens))
        stream = [prefix, *tokens]
        windows.append((stream[max(0, end - max_length) : end], tokens[done:end]))
        done = end
    total = 0.0
    for inputs, predicted in windows:
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([inputs])).logits[0].double(), -1)
        rows = log_p[-len(predicted) :]
        total += float(rows[torch.arange(len(predicted)), torch.tensor(predicted)].sum())
    return total


def compare(family, marked):
    """Yields the rows of a family: the method, its window and stride, their number and ours."""
    with tempfile.TemporaryDirectory() as folder:
        model, fast = make(family, folder, marked)
        names = {path.name for path in pathlib.Path(folder).iterdir()}
        run = load_model(folder)
        document = from_text(run.tokenizer, "text", TEXT)
        theirs = fast.encode(TEXT, add_special_tokens=False)
        assert document.ids.tolist() == theirs, "the tokens differ"
        for window, stride in WINDOWS:
            ours = evaluate(run, [document], windows="transformers", window=window, stride=stride)
            yield "strided", window, stride, documented(model, fast, window, stride), ours.transformers_perplexity.value
            if marked:
                context = window - stride + 1
                ours = evaluate(run, [document], window=window, stride=stride)
                yield "rolling", window, stride, rolling(model, fast, window, context), -ours.tally.column("nll").sum()
        assert {path.name for path in pathlib.Path(folder).iterdir()} == names, "a copy was written"


def main():
    """Prints the table and returns the exit status."""
    torch.set_num_threads(1)  # one small model at a time
    ended = 0
    print(
        f"| {'model':<16} | {'method':<8} | window | stride | {'transformers':>13} | {'here':>13} | {'difference':>10} |"
    )
    for family in FAMILIES:
        for marked in (True, False):
            for method, window, stride, theirs, ours in compare(family, marked):
                difference = abs(ours - theirs) / abs(theirs)
                over = not np.isfinite(difference) or difference > BOUND
                ended |= over
                name = family + (", a mark" if marked else "")
                numbers = f"{theirs:13.5f} | {ours:13.5f} | {difference:10.1e}"
                print(f"| {name:<16} | {method:<8} | {window:>6} | {stride:>6} | {numbers} |{' OVER' if over else ''}")
    return int(ended)


if __name__ == "__main__":
    sys.exit(main())
