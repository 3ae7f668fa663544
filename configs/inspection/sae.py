"""Autoencoders of six architectures, and a transcoder, on the last layer but one of a run: one forward pass for all.

python -m launch.inspect features --run=runs/quickstart --config=configs/inspection/sae.py
python -m launch.inspect features --run=runs/quickstart --config=configs/inspection/sae.py --set num_steps=300
"""

from train.inspection.features.autoencoders import AuxK, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, Resampling, TopK
from train.inspection.features.training.settings import Autoencoder, Features
from train.schedules import WarmupStableDecay

WIDTH, K = 1024, 16
auxiliary = AuxK(k=64)
architectures = {
    "relu": ReLU(l1=2.0, warmup_steps=100, resampling=Resampling(every=500)),
    "gated": Gated(l1=2.0, warmup_steps=100),
    "jump_relu": JumpReLU(l0=0.5, warmup_steps=100),
    "top_k": TopK(k=K, auxiliary=auxiliary),
    "batch_top_k": BatchTopK(k=K, auxiliary=auxiliary),
    "matryoshka": Matryoshka(k=K, sizes=(WIDTH // 16, WIDTH // 4), auxiliary=auxiliary),
}
autoencoders = tuple(
    Autoencoder(name=name, layer=-2, width=WIDTH, architecture=architecture)
    for name, architecture in architectures.items()
)
transcoder = Autoencoder(
    name="transcoder",
    tap="mixer_output",
    output_tap="ffn_output",
    layer=-2,
    width=WIDTH,
    architecture=TopK(k=K, auxiliary=auxiliary),
)
features = Features(
    autoencoders=(*autoencoders, transcoder),
    num_steps=2000,
    batch_tokens=1024,
    buffer_tokens=65_536,
    skip_positions=1,
    schedule=WarmupStableDecay(peak=1e-3, warmup_steps=50, decay_steps=400),
    dead_after=200_000,
    eval_every=500,
    save_every=500,
)
