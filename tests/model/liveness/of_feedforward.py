"""Cases of `tests/model/test_liveness.py`: feed-forward layers and experts."""

EXPERTS = "Experts(num_experts=8, top_k=2, expert=Gated(width=8))"
GROUPED = f"ffn={EXPERTS[:-1]}, router=SoftmaxRouter(groups=Groups(count=4, top_k=2)))"

CASES = {
    "MLP.width": (["ffn=MLP(width=24)"], "ffn.width=20", "parameters"),
    "MLP.activation": (["ffn=MLP(width=24)"], "ffn.activation=relu", "output"),
    "MLP.bias": (["ffn=MLP(width=24)"], "ffn.bias=True", "parameters"),
    "Gated.width": ([], "ffn.width=20", "parameters"),
    "Gated.activation": ([], "ffn.activation=relu", "output"),
    "Gated.clamp": ([], "ffn.clamp=0.1", "output"),
    "Gated.up_offset": ([], "ffn.up_offset=1.0", "output"),
    "Gated.bias": ([], "ffn.bias=True", "parameters"),
    "Experts.num_experts": ([f"ffn={EXPERTS}"], "ffn.num_experts=6", "parameters"),
    "Experts.top_k": ([f"ffn={EXPERTS}"], "ffn.top_k=3", "output"),
    "Experts.expert": ([f"ffn={EXPERTS}"], "ffn.expert=MLP(width=8)", "parameters"),
    "Experts.router": ([f"ffn={EXPERTS}"], "ffn.router=SigmoidRouter", "output"),
    "Experts.apply_weights_to": ([f"ffn={EXPERTS}"], "ffn.apply_weights_to=input", "output"),
    "Experts.dispatch": ([f"ffn={EXPERTS}"], "ffn.dispatch=Capacity(factor=0.5)", "output"),
    "Experts.shared": ([f"ffn={EXPERTS}"], "ffn.shared=Shared(ffn=MLP(width=8))", "parameters"),
    "Experts.balance_loss": ([f"ffn={EXPERTS}"], "ffn.balance_loss=BalanceLoss(coefficient=0.1)", "losses"),
    "Experts.router_z_loss": ([f"ffn={EXPERTS}"], "ffn.router_z_loss=0.1", "losses"),
    "Experts.load_bias": ([f"ffn={EXPERTS}"], "ffn.load_bias=LoadBias", "parameters"),
    "Shared.ffn": (
        [f"ffn={EXPERTS}", "ffn.shared=Shared(ffn=MLP(width=8))"],
        "ffn.shared.ffn=Gated(width=8)",
        "parameters",
    ),
    "Shared.gate": ([f"ffn={EXPERTS}", "ffn.shared=Shared(ffn=MLP(width=8))"], "ffn.shared.gate=True", "parameters"),
    "SoftmaxRouter.renormalize": ([f"ffn={EXPERTS}"], "ffn.router.renormalize=False", "output"),
    "SoftmaxRouter.bias": ([f"ffn={EXPERTS}"], "ffn.router.bias=True", "parameters"),
    "SoftmaxRouter.scale": ([f"ffn={EXPERTS}"], "ffn.router.scale=2.0", "output"),
    "SoftmaxRouter.groups": ([f"ffn={EXPERTS}"], "ffn.router.groups=Groups(count=4, top_k=1)", "output"),
    "SigmoidRouter.renormalize": (
        [f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"],
        "ffn.router.renormalize=False",
        "output",
    ),
    "SigmoidRouter.bias": ([f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"], "ffn.router.bias=True", "parameters"),
    "SigmoidRouter.scale": ([f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"], "ffn.router.scale=2.0", "output"),
    "SigmoidRouter.groups": (
        [f"ffn={EXPERTS}", "ffn.router=SigmoidRouter"],
        "ffn.router.groups=Groups(count=4, top_k=1)",
        "output",
    ),
    "Groups.count": ([GROUPED, "ffn.router.groups.top_k=1"], "ffn.router.groups.count=2", "output"),
    "Groups.top_k": ([GROUPED], "ffn.router.groups.top_k=1", "output"),
    "Groups.score": ([GROUPED], "ffn.router.groups.score=top2_sum", "output"),
    "Capacity.factor": ([f"ffn={EXPERTS}", "ffn.dispatch=Capacity(factor=0.5)"], "ffn.dispatch.factor=1.0", "output"),
    "BalanceLoss.coefficient": (
        [f"ffn={EXPERTS}", "ffn.balance_loss=BalanceLoss(coefficient=0.1)"],
        "ffn.balance_loss.coefficient=0.2",
        "losses",
    ),
    "BalanceLoss.over": (
        [f"ffn={EXPERTS}", "ffn.balance_loss=BalanceLoss(coefficient=0.1)"],
        "ffn.balance_loss.over=sequence",
        "losses",
    ),
    "LoadBias.rate": ([f"ffn={EXPERTS}", "ffn.load_bias=LoadBias"], "ffn.load_bias.rate=0.1", "moved"),
}
