"""Reference attention, one query and one head at a time in float64, and inputs for it."""

import numpy as np

from model.kernels.visibility import Coordinates, bidirectional


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


def naive(q, k, v, mask, scale, softcap=None):
    """Computes one query of one head at a time, in float64: returns the heads' outputs and the weights (B, N, T, S)."""
    (b, t, n, h), (s, kv) = q.shape, k.shape[1:3]
    mask = np.broadcast_to(mask, (b, t, s))
    out, weights = np.zeros((b, t, n, h)), np.zeros((b, n, t, s))
    for row, head, query in np.ndindex(b, n, t):
        shared = head // (n // kv)  # neighbouring query heads share a key head
        seen = np.flatnonzero(mask[row, query])
        scores = np.array([scale * q[row, query, head] @ k[row, key, shared] for key in seen])
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        weights[row, head, query, seen] = softmax(scores)
        out[row, query, head] = weights[row, head, query] @ v[row, :, shared]
    return out, weights


def heads(n, kv, b=2, t=4, s=5, h=6, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(b, t, n, h), (b, s, kv, h), (b, s, kv, h)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def random_mask(b, t=4, s=5):
    mask = np.random.default_rng(9).random((b, t, s)) < 0.5
    mask[..., 0] = True
    return mask


def visible_where(mask_BTS):
    """Returns the visibility of an array alone."""
    return bidirectional(Coordinates(mask_BTS.shape[1]), Coordinates(mask_BTS.shape[2])).with_mask(mask_BTS)
