"""Cases of `tests/model/test_liveness.py`: positions and their scaling."""

TWO_LAYERS = "num_layers=2"  # others have one
DYNAMIC = "position=Rotary(theta=10.0, scaling=DynamicNTK(factor=4.0, original_length=4))"
YARN = "position=Rotary(theta=10.0, scaling=YaRN(factor=4.0, original_length=100))"
DEEPSEEK = "position=Rotary(scaling=YaRN(factor=4.0, original_length=100, mscale=1.0, mscale_all_dim=0.5))"
LLAMA3 = (
    "position=Rotary(theta=10.0, scaling=Llama3Scaling("
    "factor=4.0, low_frequency_factor=0.5, high_frequency_factor=4.0, original_length=20))"
)
LONG = (
    "position=Rotary(theta=10.0, scaling=LongRoPE("
    "short_factors=(1.5, 2.0), long_factors=(3.0, 4.0), original_length=14, factor=4.0))"
)

CASES = {
    "Learned.offset": (["position=Learned"], "position.offset=2", "parameters"),
    "Sinusoidal.theta": (["position=Sinusoidal"], "position.theta=10.0", "output"),
    "ALiBi.scale": (["position=ALiBi"], "position.scale=0.5", "output"),
    "ALiBi.round_to_bfloat16": (
        ["position=ALiBi", "mixer=GroupedQuery(num_heads=16)"],
        "position.round_to_bfloat16=True",
        "output",
    ),
    "RelativeBias.bidirectional": (["position=RelativeBias(buckets=4)"], "position.bidirectional=True", "output"),
    "RelativeBias.shared": ([TWO_LAYERS, "position=RelativeBias"], "position.shared=True", "parameters"),
    "RelativeBias.buckets": (["position=RelativeBias"], "position.buckets=8", "parameters"),
    "RelativeBias.max_distance": (["position=RelativeBias(buckets=4)"], "position.max_distance=6", "output"),
    "Rotary.theta": ([], "position.theta=10.0", "output"),
    "Rotary.fraction": ([], "position.fraction=0.5", "output"),
    "Rotary.rotated": (["position.fraction=0.5"], "position.rotated=fastest", "output"),
    "Rotary.interleaved": ([], "position.interleaved=True", "output"),
    "Rotary.scaling": ([], "position.scaling=LinearScaling(factor=4.0)", "output"),
    "LinearScaling.factor": (["position.scaling=LinearScaling(factor=4.0)"], "position.scaling.factor=2.0", "output"),
    "NTK.factor": (
        ["position.theta=10.0", "position.scaling=NTK(factor=4.0)"],
        "position.scaling.factor=2.0",
        "output",
    ),
    "DynamicNTK.factor": ([DYNAMIC], "position.scaling.factor=2.0", "output"),
    "DynamicNTK.original_length": ([DYNAMIC], "position.scaling.original_length=6", "output"),
    "YaRN.factor": ([YARN], "position.scaling.factor=2.0", "output"),
    "YaRN.original_length": ([YARN], "position.scaling.original_length=1000", "output"),
    "YaRN.beta_fast": ([YARN], "position.scaling.beta_fast=2.0", "output"),
    "YaRN.beta_slow": ([YARN], "position.scaling.beta_slow=4.0", "output"),
    "YaRN.truncate": ([YARN], "position.scaling.truncate=False", "output"),
    "YaRN.attention_factor": ([YARN], "position.scaling.attention_factor=1.5", "output"),
    "YaRN.mscale": ([DEEPSEEK], "position.scaling.mscale=2.0", "output"),
    "YaRN.mscale_all_dim": ([DEEPSEEK], "position.scaling.mscale_all_dim=2.0", "output"),
    "Llama3Scaling.factor": ([LLAMA3], "position.scaling.factor=2.0", "output"),
    "Llama3Scaling.low_frequency_factor": ([LLAMA3], "position.scaling.low_frequency_factor=0.9", "output"),
    "Llama3Scaling.high_frequency_factor": ([LLAMA3], "position.scaling.high_frequency_factor=8.0", "output"),
    "Llama3Scaling.original_length": ([LLAMA3], "position.scaling.original_length=40", "output"),
    "LongRoPE.short_factors": ([LONG], "position.scaling.short_factors=(1.0, 9.0)", "output"),
    "LongRoPE.long_factors": (
        [LONG, "position.scaling.original_length=11"],
        "position.scaling.long_factors=(1.0, 9.0)",
        "output",
    ),
    "LongRoPE.original_length": ([LONG], "position.scaling.original_length=11", "output"),
    "LongRoPE.factor": ([LONG], "position.scaling.factor=20.0", "output"),
    "LongRoPE.attention_factor": (
        [LONG, "position.scaling.factor=None", "position.scaling.attention_factor=1.0"],
        "position.scaling.attention_factor=1.5",
        "output",
    ),
}
