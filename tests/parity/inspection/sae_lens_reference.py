"""Autoencoders of SAELens with small random weights: their files, and their outputs on random activations.

    python -m tests.parity.inspection.sae_lens_reference --record     writes tests/fixtures/sae_lens.npz
    python -m tests.parity.inspection.sae_lens_reference --read=DIR   reads Cairn's files, writes outputs beside them

Needs `pip install -e '.[parity-autoencoders]'`. Imports nothing of Cairn, so that it runs in an environment without it.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np

D_IN, D_SAE, D_OUT, TOKENS = 8, 24, 6, 16
FIXTURE = pathlib.Path(__file__).parents[2] / "fixtures" / "sae_lens.npz"
KINDS = ("standard", "gated", "jumprelu", "topk", "transcoder", "jumprelu_transcoder")


def inputs():
    """The activations, float32 (TOKENS, D_IN)."""
    return np.random.default_rng(0).normal(size=(TOKENS, D_IN)).astype(np.float32)


def made(kind):
    """An autoencoder of SAELens with random weights."""
    import torch
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(kind)
    outputs = {"d_out": D_OUT, "apply_b_dec_to_input": False} if kind.endswith("transcoder") else {}
    sizes = {"d_in": D_IN, "d_sae": D_SAE} | outputs
    more = {"k": 5} if kind == "topk" else {}
    sae = sae_class(config_class(**sizes, **more))
    draw = torch.Generator().manual_seed(KINDS.index(kind))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            size = 0.5 if parameter.ndim == 2 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * size)
            if name == "threshold":
                parameter.abs_()
    return sae


def outputs(sae):
    """The features and the output of the activations."""
    import torch

    with torch.no_grad():
        features = sae.encode(torch.from_numpy(inputs()))
        return features.numpy(), sae.decode(features).numpy()


def record():
    """Writes the fixture: for each kind cfg.json, the tensors, the features and the output."""
    from safetensors.numpy import load_file

    found = {}
    for kind in KINDS:
        sae = made(kind)
        with tempfile.TemporaryDirectory() as folder:
            sae.save_model(folder)
            config = json.loads((pathlib.Path(folder) / "cfg.json").read_text())
            tensors = load_file(pathlib.Path(folder) / "sae_weights.safetensors")
        features, output = outputs(sae)
        found |= {f"{kind}/cfg": np.array(json.dumps(config)), f"{kind}/features": features, f"{kind}/output": output}
        found |= {f"{kind}/tensors/{name}": x for name, x in tensors.items()}
    np.savez_compressed(FIXTURE, **found)
    print(f"{FIXTURE}: {len(KINDS)} autoencoders")


def read(folder):
    """Reads each autoencoder in a folder as a user of SAELens does, and writes what it computes beside it."""
    from sae_lens import SAE

    for path in sorted(each for each in folder.iterdir() if (each / "cfg.json").is_file()):
        features, output = outputs(SAE.load_from_disk(str(path)))
        np.savez(path / "outputs.npz", features=features, output=output)
        print(path.name, features.shape, output.shape)


def main():
    """Records, or reads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the fixture")
    parser.add_argument("--read", type=pathlib.Path, help="a folder of autoencoders that Cairn wrote")
    given = parser.parse_args()
    if given.record:
        record()
    if given.read:
        read(given.read)


if __name__ == "__main__":
    main()
