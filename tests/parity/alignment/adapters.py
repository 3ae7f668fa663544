"""Compares adapters with the library peft, live, in both directions: python -m tests.parity.alignment.adapters [--record]

Needs torch, transformers and peft (the extra `parity-alignment`). For each case peft makes an adapter of a recorded
model, which `launch.convert` reads and writes again; then peft reads one that was made here. --record writes peft's
adapters and logits into tests/fixtures/adapters, which tests/train/conversion/test_adapters.py reads.
"""

import dataclasses
import pathlib
import shutil
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from model.parameters.adapters import DoRA, LoRA
from model.parameters.names import flatten, unflatten
from model.transformer import forward
from tests.benchmarks.command import answer_help
from train import experiment as experiments
from train.conversion.adapters import merge_run, read_adapter, write_adapter
from train.conversion.reading import read_published
from train.conversion.run_folder import derived_experiment, write_derived
from train.run.loading import load_params

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
# Name: (family, the arguments of peft.LoraConfig).
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "lora": ("llama", {"r": 3, "lora_alpha": 6, "target_modules": EVERY}),
    "queries_and_values": (
        "llama",
        {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    ),
    "dora": ("llama", {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ["o_proj", "down_proj"]}),
    "turned": ("gpt2", {"r": 2, "lora_alpha": 4, "target_modules": ["c_fc"], "fan_in_fan_out": True}),
}
BOUND = 2e-5  # of logits, in units of their standard deviation


def tokens(vocab):
    """Two rows of 12 tokens."""
    return np.random.default_rng(0).integers(3, vocab, (2, 12))


def peft_adapter(name, folder):
    """Makes an adapter of which no number is 0, saves it, and returns its logits."""
    import peft
    import torch
    import transformers

    family, options = CASES[name]
    base = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / "families" / family / "0", dtype=torch.float32)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    for parameter in (p for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n):
        torch.nn.init.normal_(parameter, std=0.2)
    for parameter in (p for n, p in model.named_parameters() if "magnitude" in n):
        parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
    model.peft_config["default"].base_model_name_or_path = family
    model.save_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor(tokens(base.config.vocab_size))).logits.numpy()


def logits(run, **options):
    """The logits of a run folder."""
    loaded = load_params(run, **options)
    model = loaded.experiment.model
    return np.asarray(jax.jit(lambda p, t: forward(model, p, t).logits_BTV)(loaded.params, tokens(model.vocab_size)))


def difference(found, expected):
    """The largest difference, in units of the standard deviation."""
    return float(np.abs(found - expected).max() / expected.std())


def written_here(base, run, option):
    """A run with adapters of which no number is 0."""
    before = experiments.load(base)
    experiment = derived_experiment(before, dataclasses.replace(before.model, adapters=option))

    def params():
        from train.run.added_parts import add_parts

        tree = add_parts(experiment.model, load_params(base).params, jax.random.key(0))
        draw = np.random.default_rng(1)
        moved = {
            name: x + jnp.asarray(0.2 * draw.normal(size=x.shape), x.dtype)
            if "lora" in name or "magnitude" in name
            else x
            for name, x in flatten(tree).items()
        }
        return unflatten(tree, moved), 0

    write_derived(experiment, base, run, params)


def read_by_peft(family, folder):
    """The logits of peft for an adapter that was written here."""
    import peft
    import torch
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / "families" / family / "0", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, folder)
    with torch.no_grad():
        return model(torch.tensor(tokens(base.config.vocab_size))).logits.numpy()


def main(record):
    """Compares every case, prints a line for each, and returns the exit status."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        there = pathlib.Path(temporary)
        for family in {family for family, _ in CASES.values()}:
            read_published(FIXTURES / "families" / family / "0", there / family, parameter_dtype="float32")
        for name, (family, _) in CASES.items():
            expected = peft_adapter(name, there / name)
            read_adapter(there / name, there / family, there / f"{name}-run")
            merge_run(there / f"{name}-run", there / f"{name}-merged")
            write_adapter(there / f"{name}-run", there / f"{name}-back")
            same = all(
                (there / f"{name}-back" / path.name).read_bytes() == path.read_bytes()
                for path in (there / name).iterdir()
            )
            found = [difference(logits(there / f"{name}-{kind}"), expected) for kind in ("run", "merged")]
            print(f"{name:20} logits {found[0]:.1e}, merged {found[1]:.1e}, {'same bytes' if same else 'OTHER BYTES'}")
            worst = max(worst, *found, 0.0 if same else 1.0)
            if record:
                into = FIXTURES / "adapters" / name
                shutil.rmtree(into, ignore_errors=True)
                shutil.copytree(there / name, into)
                (into / "README.md").unlink(missing_ok=True)
                np.save(into / "logits.npy", expected)
        for name, option in (("LoRA", LoRA(rank=3, alpha=6.0)), ("DoRA", DoRA(rank=3, alpha=6.0, roles=("value",)))):
            written_here(there / "llama", there / name, option)
            write_adapter(there / name, there / f"{name}-out")
            found = difference(logits(there / name), read_by_peft("llama", there / f"{name}-out"))
            print(f"{name:20} written here, logits {found:.1e}")
            worst = max(worst, found)
    return int(worst > BOUND)


if __name__ == "__main__":
    answer_help(__name__, __doc__)
    sys.exit(main("--record" in sys.argv))
