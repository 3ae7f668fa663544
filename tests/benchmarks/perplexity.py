"""Tokens per second of an evaluation: this code, the forward pass of its training step, and `transformers`, in turn.

    python -m tests.benchmarks.perplexity [--rounds=5] [--rows=4] [--documents=16] [--no_transformers]

A random LLaMA of 8 million parameters (6 layers, width 256, 8 heads, vocabulary 8,192) reads documents that fill one
window of 512 tokens each, in float32, in one process:

    evaluate      train.evaluation.evaluate.evaluate, from ids to the result with its standard errors
    details       the same with accuracy, entropy, calibration and the loss against the position
    forward       the forward pass of the training step (the objective's loss) on the same rows, on the device alone
    transformers  logits of the same rows and torch's cross entropy

Prints the median, the least and the most over the rounds, and the ratio of evaluate to each other, round by round: of
tokens a second, and of processor seconds, which other work on the machine changes little. The losses of all must agree.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.command import require_torch, run
from tests.benchmarks.repeats import extremes, ratios, timed

LENGTH, VOCABULARY, LAYERS, WIDTH, HEADS, FFN = 512, 8192, 6, 256, 8, 704


def random_model(folder: str) -> tuple[Any, Any]:
    """A random model that is read from a Hugging Face folder if torch is there: ours and theirs, with the same weights."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from train.conversion.loading import load_model

    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    tokenizers.Tokenizer(words).save(f"{folder}/tokenizer.json")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=LENGTH, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().eval()
    model.save_pretrained(folder)
    return load_model(folder), model


def untrained_run() -> Any:
    """The same model without torch, from random initial values."""
    import jax

    from model.attention.grouped_query import GroupedQuery
    from model.config import ModelConfig
    from model.feedforward.mlp import Gated
    from model.transformer import init
    from train.conversion.loading import PublishedModel
    from train.conversion.reading import _experiment
    from train.data.config import Characters
    from train.data.tokenizers.interface import CharactersTokenizer
    from train.files.paths import user_path
    from train.parallel.mesh_choice import fsdp_mesh
    from train.parallel.table import Sharding

    config = ModelConfig(
        vocab_size=VOCABULARY, context_length=LENGTH, num_layers=LAYERS, width=WIDTH, ffn=Gated(width=FFN),
        mixer=GroupedQuery(num_heads=HEADS),
    )  # fmt: skip
    choice = fsdp_mesh(config, Sharding())
    params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    experiment, folder = _experiment(config, user_path("random"), None), user_path("random")
    tokenizer = CharactersTokenizer(Characters(), map(chr, range(100, 100 + VOCABULARY)))
    return PublishedModel(folder, experiment, params, choice.mesh, choice.layout, tokenizer, 0)


def works(loaded: Any, theirs: Any, rows: int, count: int) -> dict[str, Callable[[], float]]:
    """What is timed, by name; each returns the mean loss."""
    import jax
    import jax.numpy as jnp

    from train.data.tokenizers.prefixes import PrefixSize
    from train.evaluation.documents import Document
    from train.evaluation.evaluate import evaluate

    ids = np.random.default_rng(0).integers(0, VOCABULARY, (count, LENGTH + 1)).astype(np.int32)
    documents = [Document(f"{i}", row, LENGTH + 1, 1, True, PrefixSize(1, 0, 1)) for i, row in enumerate(ids)]
    experiment, layout = loaded.experiment, loaded.layout

    @jax.jit
    def loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        _, sums = experiment.objective.loss(experiment.model, params, batch, dropout_key=None, layout=layout)
        return sums.loss

    def ours(detailed: bool) -> float:
        options = {"window": LENGTH, "stride": LENGTH, "batch_size": rows, "detailed": detailed}
        return evaluate(loaded, documents, **options).measures["loss"].value

    def forward() -> float:
        total = 0.0
        for first in range(0, count, rows):
            part = ids[first : first + rows]
            batch = {"tokens": part[:, :-1], "targets": part[:, 1:], "weights": jnp.ones((rows, LENGTH))}
            total += float(loss(loaded.params, batch))
        return total / (count * LENGTH)

    def torch_loop() -> float:
        import torch

        total = 0.0
        with torch.no_grad():
            for first in range(0, count, rows):
                part = torch.tensor(ids[first : first + rows], dtype=torch.int64)
                logits = theirs(part[:, :-1], use_cache=False).logits
                flat = logits.reshape(-1, VOCABULARY), part[:, 1:].reshape(-1)
                total += float(torch.nn.functional.cross_entropy(*flat, reduction="sum"))
        return total / (count * LENGTH)

    found: dict[str, Callable[[], float]] = {
        "evaluate": lambda: ours(False),
        "details": lambda: ours(True),
        "forward": forward,
    }
    return found | ({} if theirs is None else {"transformers": torch_loop})


def main() -> None:
    """Reads the flags and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4, help="windows at a time")
    parser.add_argument("--documents", type=int, default=16, help="a multiple of --rows")
    parser.add_argument("--no_transformers", action="store_true", help="without torch")
    given = parser.parse_args()
    if not given.no_transformers:
        require_torch("parity")
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the commands do
    with tempfile.TemporaryDirectory() as folder:
        loaded, theirs = (untrained_run(), None) if given.no_transformers else random_model(folder)
        all_works = works(loaded, theirs, given.rows, given.documents)
        losses = {name: work() for name, work in all_works.items()}  # compiles
        rates: dict[str, list[float]] = {name: [] for name in all_works}
        processor: dict[str, list[float]] = {name: [] for name in all_works}
        for _ in range(given.rounds):
            for name, work in all_works.items():
                took = timed(work)
                rates[name].append(given.documents * LENGTH / took.seconds)
                processor[name].append(took.processor)
    for name, each in rates.items():
        least, median, most = extremes(ratios(rates["evaluate"], each))
        print(
            f"{name:<13} median {statistics.median(each):9,.0f} tokens/s, {min(each):,.0f} to {max(each):,.0f}; evaluate "
            f"is {median:.2f} times as fast, {least:.2f} to {most:.2f}, n={len(each)}"
        )
        least, median, most = extremes(ratios(processor["evaluate"], processor[name]))
        print(
            f"{'':<13} median {statistics.median(processor[name]):9,.2f} processor seconds; evaluate takes "
            f"{median:.3f} of them, {least:.3f} to {most:.3f}"
        )
    spread = max(losses.values()) - min(losses.values())
    print(f"losses {', '.join(f'{name} {loss:.6f}' for name, loss in losses.items())}; they differ by {spread:.1e}")


if __name__ == "__main__":
    run(main)
