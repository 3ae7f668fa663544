"""The table of all taps: names, axes and meanings. A new tap is a row of `TAPS`."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """The axes of a tap in one layer, in the letters of the shape suffixes, and the intermediate that it names.

    A tap that is not `editable` is made only for the caller: the model computes nothing from it.
    """

    axes: str
    text: str
    editable: bool = True


TAPS: dict[str, Meaning] = {
    "embedding": Meaning("BTD", "embeddings of tokens, with positions that are added to them"),
    "query": Meaning("BTNH", "queries, after their norm and rotary positions; after the convolution of a recurrence"),
    "key": Meaning("BTKH", "keys, likewise"),
    "value": Meaning("BTKH", "values, likewise, with a value residual"),
    "latent": Meaning("BTR", "the normalised latent of keys and values (multi-head latent attention)"),
    "attention_weights": Meaning("BNTS", "the weights of all keys for each query, after softmax", editable=False),
    "score_sizes": Meaning(
        "BN2", "the largest attention score over queries and keys; the sum over queries of mean squares", editable=False
    ),
    "write_strength": Meaning("BTN", "beta of the delta rule"),
    "step": Meaning("BTN", "the step size of a state space, after softplus"),
    "decay": Meaning("BTN", "the share of a memory that is left at each token", editable=False),
    "input_gate": Meaning("BTNH", "of an LSTM", editable=False),
    "forget_gate": Meaning("BTNH", "of an LSTM", editable=False),
    "output_gate": Meaning("BTNH", "of an LSTM", editable=False),
    "cell": Meaning("BTNH", "of an LSTM", editable=False),
    "reset_gate": Meaning("BTNH", "of a GRU", editable=False),
    "update_gate": Meaning("BTNH", "of a GRU", editable=False),
    "hidden": Meaning("BTNH", "the hidden state of an LSTM or a GRU", editable=False),
    "mixer_heads": Meaning("BTNH", "the output of each head, after gate and norm, before the output projection"),
    "mixer_output": Meaning("BTD", "the output of the mixer, as it is added to the residual stream"),
    "cross_query": Meaning("BTNH", "queries of a source, after their norm"),
    "cross_key": Meaning("BSKH", "keys of a source, likewise; in a pass that is given the source"),
    "cross_value": Meaning("BSKH", "values of a source, likewise"),
    "cross_weights": Meaning("BNTS", "the weights of all tokens of a source for each query", editable=False),
    "cross_heads": Meaning("BTNH", "the output of each head of cross-attention, before the output projection"),
    "cross_output": Meaning("BTD", "the output of cross-attention, as it is added to the residual stream"),
    "router_logits": Meaning("BTE", "the router's logits of experts"),
    "experts_chosen": Meaning("BTR", "the numbers of each token's experts, best first"),
    "expert_weights": Meaning("BTR", "the weights of these"),
    "ffn_hidden": Meaning("BTF", "the hidden layer of the feed-forward, after the activation; of the shared expert"),
    "unit_sizes": Meaning("BF2", "the largest absolute `ffn_hidden` over tokens; the sum of squares", editable=False),
    "ffn_output": Meaning("BTD", "the output of the feed-forward, as it is added to the residual stream"),
    "block_output": Meaning("BTD", "the residual stream after the layer; BTnD with n streams"),
    "stream_squares": Meaning("BT", "the mean square of `block_output` at each token", editable=False),
    "final_norm": Meaning("BTD", "the residual stream after the last layer and the final norm"),
}

# Earlier names of taps, and their present names.
EARLIER = {"attention_heads": "mixer_heads", "attention_output": "mixer_output"}


def table() -> str:
    """Returns the table for model/README.md."""
    rows = ["| name | axes | meaning | edited |", "| --- | --- | --- | --- |"]
    for name, (axes, text, editable) in TAPS.items():
        rows.append(f"| `{name}` | {axes} | {text} | {'yes' if editable else 'no'} |")
    return "\n".join(rows) + "\n"
