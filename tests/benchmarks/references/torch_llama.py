"""The training step of `transformers` LLaMA in PyTorch, with the shapes of llama_1b.py: SDPA, fused AdamW, torch.compile.

    python -m tests.benchmarks.references.torch_llama [--batch=4] [--steps=20] [--no_compile] [--small]

Float32 parameters and moments, bfloat16 by autocast, gradients clipped to norm 1; the loss is that of `transformers`.
Prints one JSON line: the median of a step in seconds over --steps after --warmup steps, tokens per second, the peak of
memory, and the loss of the first and last step. Two batches of random tokens take turns, as in launch.bench.
"""

import argparse
import json
import statistics
import sys
import time

from tests.benchmarks.command import answer_help, require_torch

answer_help(__name__, __doc__)
require_torch("parity")
import torch  # noqa: E402
import transformers  # noqa: E402

FULL = {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
FULL |= {"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 4096}
SMALL = FULL | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 1, "vocab_size": 256}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="rows")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--no_compile", action="store_true", help="leaves torch.compile out")
    parser.add_argument("--small", action="store_true", help="a tiny model, for a machine without a GPU")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    shapes = SMALL if options.small else FULL
    config = transformers.LlamaConfig(**shapes, tie_word_embeddings=False, attn_implementation="sdpa", use_cache=False)
    model = transformers.LlamaForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1, fused=device == "cuda")
    forward = model if options.no_compile else torch.compile(model)
    shape = (options.batch, options.length)
    batches = [torch.randint(0, shapes["vocab_size"], shape, device=device) for _ in range(2)]
    seconds, losses = [], []
    for n in range(options.warmup + options.steps):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = forward(input_ids=batches[n % 2], labels=batches[n % 2]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())  # waits for the device
        if n >= options.warmup:
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    result = {
        "seconds": median,
        "step_seconds": seconds,
        "tokens_per_second": options.batch * options.length / median,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "losses": (losses[0], losses[-1]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(result), file=sys.stdout)


if __name__ == "__main__":
    main()
