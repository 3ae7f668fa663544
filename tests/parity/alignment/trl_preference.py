"""Losses of preferences by `trl`, on a tiny model, recorded for tests/train/objectives/test_against_trl.py.

    pip install -e '.[parity-alignment]'
    python -m tests.parity.alignment.trl_preference            compares with the recorded numbers
    python -m tests.parity.alignment.trl_preference --record   writes them

For each loss: its value, the norm of its gradient, and the log-probabilities or scores. DPO, IPO, KTO and the reward
model are computed by their trainers; SimPO and ORPO by the functions of the trainers that hold their equations.
"""

import json
import os
import pathlib
import sys
import tempfile
import types

import numpy as np

from tests.parity.alignment import tiny

FIXTURE = pathlib.Path(__file__).parents[2] / "fixtures" / "alignment" / "trl_preference.json"


def published(weights, reward=False):
    """The weights by the names of `transformers`."""
    width = tiny.WIDTH
    found = {
        "model.embed_tokens.weight": weights["embedding.table"],
        "model.norm.weight": weights["final_norm.scale"],
        "score.weight" if reward else "lm_head.weight": (
            weights["score_head.weight"] if reward else weights["embedding.output"]
        ).T,
    }
    for i in range(tiny.LAYERS):
        of = {name.removeprefix("blocks."): x[i] for name, x in weights.items() if name.startswith("blocks.")}
        layer = f"model.layers.{i}."
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
            found[f"{layer}self_attn.{theirs}_proj.weight"] = of[f"mixer.{ours}"].reshape(width, -1).T
        found[f"{layer}self_attn.o_proj.weight"] = of["mixer.output"].reshape(-1, width).T
        for name in ("gate", "up", "down"):
            found[f"{layer}mlp.{name}_proj.weight"] = of[f"ffn.{name}"].T
        found[f"{layer}input_layernorm.weight"] = of["residual.mixer_norm.scale"]
        found[f"{layer}post_attention_layernorm.weight"] = of["residual.ffn_norm.scale"]
    return found


def torch_model(seed, reward=False):
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=tiny.WIDTH,
        intermediate_size=tiny.FFN,
        num_hidden_layers=tiny.LAYERS,
        num_attention_heads=tiny.HEADS,
        num_key_value_heads=tiny.HEADS,
        head_dim=tiny.HEAD_DIM,
        max_position_embeddings=tiny.LENGTH,
        rms_norm_eps=tiny.EPSILON,
        rope_theta=tiny.THETA,
        tie_word_embeddings=False,
        pad_token_id=0,
        num_labels=1,
    )
    kind = transformers.LlamaForSequenceClassification if reward else transformers.LlamaForCausalLM
    model = kind(config)
    state = {name: torch.tensor(np.ascontiguousarray(x)) for name, x in published(tiny.weights(seed), reward).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not [name for name in missing if "rotary" not in name], missing
    assert not unexpected
    return model.float()


def tokenizer():
    """Words "3", "4", ... for ids; the trainers need one, and the batches here are made of ids."""
    import tokenizers
    import transformers

    words = {"[PAD]": 0, "[EOS]": 1, "[UNK]": 2} | {str(i): i for i in range(3, tiny.VOCAB)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]"
    )


def options(folder, **changes):
    common = {"output_dir": folder, "use_cpu": True, "report_to": [], "per_device_train_batch_size": 4, "bf16": False}
    return common | {"gradient_checkpointing": False, "max_length": tiny.LENGTH} | changes


def measured(model, loss, **numbers):
    import torch

    loss.backward()
    squares = sum(float((p.grad.double() ** 2).sum()) for p in model.parameters() if p.grad is not None)
    found = {name: torch.as_tensor(x).detach().double().reshape(-1).tolist() for name, x in numbers.items()}
    return {"loss": float(loss), "grad_norm": squares**0.5, **found}


def logps_of(model, rows):
    """log p of (prompt, answer) lists, summed, with their lengths, by plain log-softmax."""
    import torch

    found = []
    for prompt, answer in rows:
        logp = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
        found.append(sum(logp[len(prompt) + i - 1, token] for i, token in enumerate(answer)))
    return torch.stack(found), torch.tensor([float(len(answer)) for _, answer in rows])


def of_pairs(loss_type, **changes):
    """The loss of trl's DPOTrainer."""
    import datasets
    import trl
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    text = [{"prompt": "3 4", "chosen": "5", "rejected": "6"}]
    policy, reference = torch_model(1), torch_model(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.DPOTrainer(
            model=policy,
            ref_model=reference,
            args=trl.DPOConfig(**options(folder, loss_type=[loss_type], **changes)),
            train_dataset=datasets.Dataset.from_list(text * 4),
            processing_class=tokenizer(),
        )
        rows = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in tiny.pairs()]
        batch = DataCollatorForPreference(pad_token_id=0)(rows)
        loss = trainer.compute_loss(policy, batch)
    chosen, _ = logps_of(policy, [(p, c) for p, c, _ in tiny.pairs()])
    rejected, _ = logps_of(policy, [(p, r) for p, _, r in tiny.pairs()])
    return measured(policy, loss, chosen_logp=chosen, rejected_logp=rejected)


def kto():
    """The loss of trl's KTOTrainer."""
    import datasets
    import trl
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    text = [{"prompt": "3 4", "completion": "5", "label": i % 2 == 0} for i in range(4)]
    policy, reference = torch_model(1), torch_model(0)
    with tempfile.TemporaryDirectory() as folder:
        changes = {"beta": tiny.BETA, "desirable_weight": tiny.DESIRABLE, "undesirable_weight": tiny.UNDESIRABLE}
        trainer = trl.KTOTrainer(
            model=policy,
            ref_model=reference,
            args=trl.KTOConfig(**options(folder, **changes)),
            train_dataset=datasets.Dataset.from_list(text),
            processing_class=tokenizer(),
        )
        rows = [
            {"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": label}
            for prompt, answer, other, label in tiny.labelled()
        ]
        loss = trainer.compute_loss(policy, DataCollatorForUnpairedPreference(pad_token_id=0)(rows))
        divergence = trainer._metrics["train"]["kl"][-1]
    return measured(policy, loss, divergence=[divergence])


def reward():
    """The loss of trl's RewardTrainer."""
    import datasets
    import torch
    import trl
    from trl.trainer.reward_trainer import DataCollatorForPreference

    model = torch_model(1, reward=True)
    text = [{"chosen": "3 4 5", "rejected": "3 4 6"}]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.RewardTrainer(
            model=model,
            args=trl.RewardConfig(**options(folder, center_rewards_coefficient=tiny.CENTRING)),
            train_dataset=datasets.Dataset.from_list(text * 4),
            processing_class=tokenizer(),
        )
        rows = [
            {"chosen_ids": p + c, "rejected_ids": p + r, "margin": m}
            for (p, c, r), m in zip(tiny.pairs(), tiny.MARGINS, strict=True)
        ]
        batch = DataCollatorForPreference(pad_token_id=0)(rows)
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), 2)
    return measured(model, loss, chosen_score=chosen, rejected_score=rejected)


def mean_losses():
    """SimPO and ORPO by the functions of trl's trainers, from log-probabilities per token."""
    import torch
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    found, device = {}, types.SimpleNamespace(device="cpu")
    for name in ("simpo", "orpo"):
        policy = torch_model(1)
        means = []
        for which in (1, 2):
            logp, length = logps_of(policy, [(row[0], row[which]) for row in tiny.pairs()])
            means.append(logp / length)
        if name == "simpo":
            trainer = types.SimpleNamespace(
                alpha=0.0, loss_type="simpo", simpo_gamma=tiny.GAMMA, beta=tiny.SIMPO_BETA, label_smoothing=0.0,
                accelerator=device,
            )  # fmt: skip
            loss = CPOTrainer.cpo_loss(trainer, *means)[0].mean()
        else:
            trainer = types.SimpleNamespace(beta=tiny.ODDS, accelerator=device)
            ratio = ORPOTrainer.odds_ratio_loss(trainer, *means)[0]
            loss = -means[0].mean() - ratio.mean()
        found[name] = measured(policy, loss, chosen_mean=torch.stack(list(means[0])))
    return found


def all_numbers():
    import trl

    return {
        "trl": trl.__version__,
        "dpo": of_pairs("sigmoid", beta=tiny.BETA),
        "ipo": of_pairs("ipo", beta=tiny.TAU),
        "kto": kto(),
        "reward": reward(),
        **mean_losses(),
    }


def main():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = all_numbers()
    if "--record" in sys.argv:
        FIXTURE.parent.mkdir(parents=True, exist_ok=True)
        FIXTURE.write_text(json.dumps(found, indent=1) + "\n")
        print(f"wrote {FIXTURE}")
        return 0
    recorded, worst = json.loads(FIXTURE.read_text()), 0.0
    for loss, numbers in recorded.items():
        for name, value in numbers.items() if isinstance(numbers, dict) else ():
            difference = float(np.max(np.abs(np.asarray(value) - np.asarray(found[loss][name]))))
            worst = max(worst, difference)
            print(f"{loss:8} {name:16} largest difference from the record {difference:.2e}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
