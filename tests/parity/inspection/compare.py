"""Compares head scores, activation patching and shares of a logit with `transformer_lens`, live, and prints a table:

    python -m tests.parity.inspection.compare
    python -m tests.parity.inspection.compare --record

Both read one small random GPT-2 from a Hugging Face folder (pip install -e '.[parity-inspection]'). The scores are
those of its `head_detector` ("mul") and of the diagonal of its demonstrations; the patches those of its `patching`; the
shares its `logit_attrs` of `decompose_resid` and `stack_head_results`, of the difference of two logits. Exits with
status 1 when a difference is over 1e-4. --record writes the model and these numbers into tests/fixtures/inspection,
from which tests/train/inspection/test_transformer_lens.py compares without torch.
"""

import pathlib
import sys
import tempfile

import numpy as np

from tests.benchmarks.command import answer_help, require_torch

answer_help(__name__, __doc__)
require_torch("parity-inspection")
import torch  # noqa: E402
import transformers  # noqa: E402
from transformer_lens import head_detector, patching  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from tests.parity.inspection.ours import HALF, compared  # noqa: E402

BOUND = 1e-4
FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "inspection"
SHAPE = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}


def make(folder):
    """Writes a random GPT-2 whose norms, biases and scores are far from their initial values; returns it."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def questions():
    """The tokens of all comparisons: two rows of repeated tokens, and a clean and a corrupt text."""
    draw = np.random.default_rng(0)
    first = np.stack([draw.choice(SHAPE["vocab_size"], HALF, replace=False) for _ in range(2)])
    clean = draw.choice(SHAPE["vocab_size"], 10)
    corrupt = clean.copy()
    corrupt[[3, 5]] = (corrupt[[3, 5]] + 7) % SHAPE["vocab_size"]
    return {
        "repeated": np.concatenate([first, first], axis=1).astype(np.int32),
        "clean": clean.astype(np.int32),
        "corrupt": corrupt.astype(np.int32),
        "answers": np.array([3, 11], np.int32),
    }


def scores_of(bridge, rows):
    """Scores of roles (L, N), means over rows."""
    roles = {"previous_token": "previous_token_head", "duplicate_token": "duplicate_token_head"}
    roles |= {"induction": "induction_head"}
    found = {}
    for name, theirs in roles.items():
        make_pattern = getattr(head_detector, f"get_{theirs}_detection_pattern")
        found[name] = np.mean([_scores(bridge, row, make_pattern) for row in rows], axis=0)
    diagonals = []
    for row in rows:
        _, cache = bridge.run_with_cache(torch.tensor(row[None], dtype=torch.long))
        patterns = torch.stack([cache["pattern", layer, "attn"][0] for layer in range(SHAPE["n_layer"])])
        diagonals.append(patterns.diagonal(dim1=-2, dim2=-1, offset=1 - HALF).mean(-1).numpy())
    # Their diagonal begins with the query before the repetition, whose token has no earlier copy.
    found["diagonal"] = np.mean(diagonals, axis=0)
    return found


def _scores(bridge, row, make_pattern):
    tokens = torch.tensor(row[None], dtype=torch.long)
    _, cache = bridge.run_with_cache(tokens)
    pattern = make_pattern(tokens)
    score = head_detector.compute_head_attention_similarity_score
    options = {"exclude_bos": False, "exclude_current_token": False, "error_measure": "mul"}
    layers, heads = range(SHAPE["n_layer"]), range(SHAPE["n_head"])
    return [[score(cache["pattern", n, "attn"][0, h], pattern, **options) for h in heads] for n in layers]


def patches_of(bridge, clean, corrupt, answers):
    """Effects of patches by TransformerLens."""
    clean, corrupt = (torch.tensor(ids[None], dtype=torch.long) for ids in (clean, corrupt))

    def difference(logits):
        return logits[0, -1, answers[0]] - logits[0, -1, answers[1]]

    _, cache = bridge.run_with_cache(clean)
    ends = [difference(bridge(ids)).item() for ids in (clean, corrupt)]

    def metric(logits):
        return (difference(logits) - ends[1]) / (ends[0] - ends[1])

    return {
        # The stream before layer 1 is that after layer 0.
        "block_output": patching.get_act_patch_resid_pre(bridge, corrupt, cache, metric)[1:].numpy(),
        "mixer_output": patching.get_act_patch_attn_out(bridge, corrupt, cache, metric).numpy(),
        "ffn_output": patching.get_act_patch_mlp_out(bridge, corrupt, cache, metric).numpy(),
        "mixer_heads": patching.get_act_patch_attn_head_out_all_pos(bridge, corrupt, cache, metric).numpy(),
    }


def shares_of(bridge, ids, answers):
    """Shares of the difference of two logits after the last token: of parts of the stream, and of heads."""
    _, cache = bridge.run_with_cache(torch.tensor(ids[None], dtype=torch.long))
    right, wrong = (torch.tensor([int(answer)]) for answer in answers)
    parts = cache.decompose_resid(mode="all", pos_slice=-1)
    heads = cache.stack_head_results(layer=-1, pos_slice=-1)
    options = {"tokens": right, "incorrect_tokens": wrong, "pos_slice": -1}
    found = {
        name: cache.logit_attrs(stack, **options).detach().numpy().reshape(len(stack))
        for name, stack in (("parts", parts), ("heads", heads))
    }
    embedding, positions, *others = found["parts"]
    return found | {"parts": np.array([embedding + positions, *others])}


def main():
    """Compares, and records if it is asked to."""
    record = "--record" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        folder = FIXTURES / "gpt2" if record else pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = make(folder)
        bridge = TransformerBridge.boot_transformers(str(folder), hf_model=model, device="cpu")
        bridge.enable_compatibility_mode(fold_value_biases=False)  # they belong to the heads
        asked = questions()
        with torch.no_grad():
            expected = scores_of(bridge, asked["repeated"])
            expected |= {
                f"patch_{k}": v
                for k, v in patches_of(bridge, asked["clean"], asked["corrupt"], asked["answers"]).items()
            }
            expected |= {f"share_{k}": v for k, v in shares_of(bridge, asked["clean"], asked["answers"]).items()}
        found = compared(folder, asked)
        worst = 0.0
        for name, value in expected.items():
            error = float(np.abs(np.asarray(value) - found[name]).max())
            worst = max(worst, error)
            print(
                f"{name:<22} {np.asarray(value).size:>4} numbers, largest {np.abs(value).max():.4f}, error {error:.1e}"
            )
        if record:
            np.savez_compressed(
                FIXTURES / "transformer_lens.npz", **asked, **{f"expected_{k}": v for k, v in expected.items()}
            )
            for path in folder.iterdir():
                if path.name not in ("config.json", "model.safetensors"):
                    path.unlink()
    print(f"largest error {worst:.1e}, bound {BOUND:.0e}")
    return int(not worst <= BOUND)


if __name__ == "__main__":
    sys.exit(main())
