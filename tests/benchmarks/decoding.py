"""Seconds to continue four texts on a CPU: Cairn, transformers and llama.cpp in turn, with the same weights.

    python -m tests.benchmarks.decoding --transformers=/tmp/torch/bin/python --llama_cpp=/tmp/llama/bin/python
    python -m tests.benchmarks.decoding --quantize int8 int8+int8 int4:64
    python -m tests.benchmarks.decoding --other=../old [--rounds=5] [--rows=4] [--new=128] [--context=2048]

A random LLaMA of 56 million parameters (8 layers of width 512, 8 heads, 4 key heads, feed-forward 1,408, vocabulary
32,000) continues 4 prompts of 64 tokens by 128 tokens, greedily, in float32. Every process waits while it is not its
turn, and generates once before the first round. Prints the median of every process, the median and the quartiles of its
rounds' ratios of Cairn's time to its time, and the share of tokens that are Cairn's. On a machine that others use, only
the ratios count.

--transformers names a Python that has torch and transformers; --llama_cpp one that has llama-cpp-python and gguf, for
which the weights are written as GGUF, in float32 and in q8_0. --quantize names formats of Cairn's weights, after a plus
that of activations. --other is another checkout of Cairn.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from tests.benchmarks.command import ROOT, path, run
from tests.benchmarks.repeats import quartiles, ratios

LAYERS, WIDTH, HEADS, KEY_HEADS, FFN, VOCABULARY, PROMPT = 8, 512, 8, 4, 1408, 32_000, 64

# Every program gets the folder of the model, the rows, the new tokens and the context as its arguments.
BEGIN = f"""
import json, os, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[5])])
import numpy as np
folder, rows, new, context, cores = sys.argv[1], *map(int, sys.argv[2:6])
prompts = np.random.default_rng(0).integers(0, {VOCABULARY}, (rows, {PROMPT})).tolist()
"""

CAIRN = """
from model.inference.generate import generate, prepare_params
from model.inference.sampling import Sampling
from model.layout import ONE_DEVICE
from tests.parity.ours import load

_, config, params = load(folder)
if WEIGHTS:
    from train.conversion.quantizing import parse_option, quantize_params, quantized_model
    from train.parallel.mesh import Mesh, make_mesh
    from train.parallel.table import Sharding

    weights = parse_option(*WEIGHTS.split("+"))
    params = quantize_params(params, config, weights, make_mesh(Mesh()), Sharding())
    config = quantized_model(config, weights)
params = prepare_params(config, params, ONE_DEVICE)
work = lambda: generate(config, params, prompts, Sampling(temperature=0, max_tokens=new))
"""

TRANSFORMERS = f"""
import torch
from transformers import LlamaForCausalLM
torch.set_num_threads(cores)

model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
inputs = torch.tensor(prompts)
options = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
work = lambda: model.generate(inputs, attention_mask=torch.ones_like(inputs), **options)[:, {PROMPT}:].tolist()
"""

LLAMA_CPP = """
import ctypes
import llama_cpp as c

c.llama_log_set(QUIET := c.llama_log_callback(lambda *_: None), ctypes.c_void_p(0))
c.llama_backend_init()
model = c.llama_model_load_from_file(FILE.encode(), c.llama_model_default_params())
options = c.llama_context_default_params()
options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = rows * min(context, 256), 512, 512, rows
options.type_k = options.type_v = 0  # float32, as the others' caches
options.n_threads = options.n_threads_batch = cores
context = c.llama_init_from_model(model, options)
batch = c.llama_batch_init(512, 0, 1)


def put(i, token, position, row, wanted):
    batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
    batch.seq_id[i][0] = row


def best(i):
    return int(np.ctypeslib.as_array(c.llama_get_logits_ith(context, i), (VOCABULARY,)).argmax())


def work():
    c.llama_memory_clear(c.llama_get_memory(context), True)
    last = []
    for row, prompt in enumerate(prompts):
        for i, token in enumerate(prompt):
            put(i, token, i, row, i == len(prompt) - 1)
        batch.n_tokens = len(prompt)
        assert c.llama_decode(context, batch) == 0
        last.append(best(len(prompt) - 1))
    tokens = [[token] for token in last]
    for step in range(new - 1):
        for row in range(rows):
            put(row, tokens[row][-1], len(prompts[row]) + step, row, True)
        batch.n_tokens = rows
        assert c.llama_decode(context, batch) == 0
        for row in range(rows):
            tokens[row].append(best(row))
    return tokens
"""

LOOP = """
work()
print("ready", flush=True)
for _ in sys.stdin:
    began, cpu_began = time.perf_counter(), time.process_time()
    tokens = work()
    print(json.dumps([time.perf_counter() - began, time.process_time() - cpu_began, tokens]), flush=True)
"""

TO_GGUF = f"""
import json, pathlib, sys
import gguf, numpy as np

folder = pathlib.Path(sys.argv[1])
data = (folder / "model.safetensors").read_bytes()
end = 8 + int.from_bytes(data[:8], "little")
header = json.loads(data[8:end])
names = {{
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}}
for kind in ("F32", "Q8_0"):
    writer = gguf.GGUFWriter(folder / f"{{kind}}.gguf", "llama")
    writer.add_context_length(int(sys.argv[4]))
    writer.add_embedding_length({WIDTH})
    writer.add_block_count({LAYERS})
    writer.add_feed_forward_length({FFN})
    writer.add_head_count({HEADS})
    writer.add_head_count_kv({KEY_HEADS})
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size({VOCABULARY})
    writer.add_tokenizer_model("none")
    for name, stored in header.items():
        if name == "__metadata__":
            continue
        begin, stop = stored["data_offsets"]
        x = np.frombuffer(data[end + begin : end + stop], np.float32).reshape(stored["shape"])
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            number, stem = stem.removeprefix("model.layers.").split(".", 1)
            target = f"blk.{{number}}.{{names[stem]}}.weight"
        else:
            target = f"{{names[stem]}}.weight"
        for part, heads in (("q_proj", {HEADS}), ("k_proj", {KEY_HEADS})):
            if part in name:  # llama.cpp rotates neighbours, not halves
                x = x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
        if kind == "Q8_0" and x.ndim == 2:
            x = gguf.quants.quantize(np.ascontiguousarray(x), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, x, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(target, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
"""


def make_model(folder: pathlib.Path, context: int) -> None:
    """Writes the random model as a Hugging Face folder, in float32."""
    import numpy as np

    from model.families.architectures import llama
    from train.conversion.folder import StoredTensor, make_header, write_tensors

    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(values))
    table = llama.FAMILY.tensors(llama.FAMILY.model_config(values))
    draw = np.random.default_rng(0)

    def tensor_values(stored: StoredTensor) -> np.ndarray:
        if len(stored.shape) == 1:
            return np.ones(stored.shape, np.float32)
        # The deviation of 1 / sqrt(inputs) keeps the likeliest tokens apart.
        return draw.standard_normal(stored.shape, np.float32) * np.float32(stored.shape[1] ** -0.5)

    header = make_header("model.safetensors", [(name, "F32", tensor.shape) for name, tensor in table.items()])
    for _ in write_tensors(folder, header, tensor_values):
        pass


def process(python: str, program: str, root: pathlib.Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Returns a process that has generated once and waits for its turn."""
    started = subprocess.Popen(
        [python, "-c", BEGIN + program + LOOP, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root) if python == sys.executable else ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def time_one_round(one: subprocess.Popen[str]) -> tuple[float, float, list[list[int]]]:
    """Returns the seconds, the processor's seconds and the tokens of one round."""
    assert one.stdin is not None
    assert one.stdout is not None
    print("go", file=one.stdin, flush=True)
    seconds, cpu_seconds, tokens = json.loads(one.stdout.readline())
    return seconds, cpu_seconds, tokens


def lines(
    seconds: dict[str, list[float]], cpu_seconds: dict[str, list[float]], texts: dict[str, list[list[int]]]
) -> list[str]:
    """Returns the table; the first process is the one that the others are compared with."""
    ours, *_ = seconds
    table = ["process, median s (least to most), ratio of wall time [quartiles], ratio of processor time, same tokens"]
    for name, times in seconds.items():
        pairs = [
            (a, b) for row, other in zip(texts[ours], texts[name], strict=True) for a, b in zip(row, other, strict=True)
        ]
        same = sum(a == b for a, b in pairs) / len(pairs)
        wall, cpu = (quartiles(ratios(all_[ours], all_[name]), "inclusive") for all_ in (seconds, cpu_seconds))
        table.append(
            f"{name:20} {statistics.median(times):7.2f} ({min(times):.2f} to {max(times):.2f}, n={len(times)})  "
            f"{wall:.2f}  {cpu:.2f}  {same:.0%}"
        )
    return table


def main() -> None:
    """Reads the flags and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=path, action="append", default=[], help="another checkout; may be repeated")
    parser.add_argument("--quantize", nargs="+", default=[], help="formats of Cairn's weights")
    parser.add_argument("--transformers", help="a Python with torch and transformers")
    parser.add_argument("--llama_cpp", help="a Python with llama-cpp-python and gguf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores of every process")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        make_model(folder, given.context)
        arguments = [str(folder), str(given.rows), str(given.new), str(given.context), str(given.cores)]
        plain = "WEIGHTS = None\n" + CAIRN
        programs = {"Cairn": (sys.executable, plain, ROOT)}
        programs |= {f"Cairn {one}": (sys.executable, f"WEIGHTS = {one!r}\n{CAIRN}", ROOT) for one in given.quantize}
        programs |= {str(root): (sys.executable, plain, root) for root in given.other}
        if given.transformers:
            programs["transformers"] = (given.transformers, TRANSFORMERS, folder)
        if given.llama_cpp:
            subprocess.run([given.llama_cpp, "-c", TO_GGUF, *arguments], check=True)
            for kind in ("F32", "Q8_0"):
                constants = f"VOCABULARY, FILE = {VOCABULARY}, {str(folder / kind) + '.gguf'!r}\n"
                programs[f"llama.cpp {kind}"] = (given.llama_cpp, constants + LLAMA_CPP, folder)
        processes = {name: process(*program, arguments) for name, program in programs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in processes}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in processes}
        texts = {}
        for _ in range(given.rounds):
            for name, one in processes.items():
                took, cpu_took, texts[name] = time_one_round(one)
                seconds[name].append(took)
                cpu_seconds[name].append(cpu_took)
        for one in processes.values():
            one.communicate()
    print("\n".join(lines(seconds, cpu_seconds, texts)))


if __name__ == "__main__":
    run(main)
