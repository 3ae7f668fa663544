"""Algorithms 11 to 15 of Phuong, Hutter 2022, "Formal Algorithms for Transformers": training and inference, in NumPy.

The gradient of a loss is taken by a complex step: d loss / d w = Im loss(w + ih) / h for a tiny h. No difference is
taken, so it is exact to rounding (Squire, Trapp 1998, "Using Complex Variables to Estimate Derivatives of Real
Functions"); it costs one forward pass for each parameter.
"""

import copy

import numpy as np

from tests.formal_algorithms.transformers import d_transformer, e_transformer, ed_transformer

STEP = 1e-30


def ed_training(pairs, theta, eta, epochs=1):
    """Algorithm 11: a step of size eta for each pair (z, x), in each epoch; returns the parameters."""
    for _ in range(epochs):
        for z, x in pairs:
            theta = _descend(lambda theta, z=z, x=x: next_token_loss(ed_transformer(z, x, theta), x), theta, eta)
    return theta


def e_training(texts, theta, eta, p_mask, mask_token, rng, epochs=1):
    """Algorithm 12: a step for each text, of the loss of its masked tokens; each is masked with probability p_mask."""
    for _ in range(epochs):
        for x in texts:
            masked = rng.random(len(x)) < p_mask
            theta = _descend(
                lambda theta, x=x, masked=masked: masked_token_loss(x, masked, mask_token, theta), theta, eta
            )
    return theta


def d_training(texts, theta, eta, epochs=1):
    """Algorithm 13: a step for each text."""
    for _ in range(epochs):
        for x in texts:
            theta = _descend(lambda theta, x=x: next_token_loss(d_transformer(x, theta), x), theta, eta)
    return theta


def d_inference(x, theta, l_gen, tau, rng=None):
    """Algorithm 14: the l_gen tokens after the prompt x, at temperature tau; 0 takes the likeliest one."""
    text = list(x)
    for _ in range(l_gen):
        P = d_transformer(text, theta)
        text.append(_drawn(P[:, -1], tau, rng))
    return text[len(x) :]


def ed_inference(z, theta, bos_token, eos_token, tau, rng=None, longest=None):
    """Algorithm 15: the answer to z, from bos_token up to eos_token; `longest` bounds it, where the paper has no bound."""
    x, y = [bos_token], None
    while y != eos_token and (longest is None or len(x) < longest):
        P = ed_transformer(z, x, theta)
        y = _drawn(P[:, len(x) - 1], tau, rng)
        x.append(y)
    return x


def tempered(p, tau):
    """q proportional to p^(1/tau): the distribution that a token is drawn from."""
    powers = (p / p.max()) ** (1 / tau)
    return powers / powers.sum()


def next_token_loss(P, x):
    """- sum of log P[x[t + 1], t], of algorithms 11 and 13."""
    return -sum(np.log(P[x[t + 1], t]) for t in range(len(x) - 1))


def masked_token_loss(x, masked, mask_token, theta):
    """- sum of log P[x[t], t] over the masked tokens t, of algorithm 12."""
    P = e_transformer(np.where(masked, mask_token, x), theta)
    return -sum(np.log(P[x[t], t]) for t in np.flatnonzero(masked))


def gradient(loss, theta):
    """The derivatives of a loss by every parameter, in the tree of the parameters."""
    result, shifted = copy.deepcopy(theta), _map(lambda w: w.astype(complex), theta)
    for derivative, w in zip(_arrays(result), _arrays(shifted), strict=True):
        for at in np.ndindex(w.shape):
            value = w[at]
            w[at] = value + 1j * STEP
            derivative[at] = np.imag(loss(shifted)) / STEP
            w[at] = value
    return result


def _descend(loss, theta, eta):
    slopes = iter(list(_arrays(gradient(loss, theta))))
    return _map(lambda w: w - eta * next(slopes), theta)


def _drawn(p, tau, rng):
    return int(np.argmax(p)) if tau == 0 else int(rng.choice(len(p), p=tempered(p, tau)))


def _arrays(theta):
    """The arrays of a tree, in its order."""
    for branch in theta.values() if isinstance(theta, dict) else theta:
        yield from [branch] if isinstance(branch, np.ndarray) else _arrays(branch)


def _map(function, theta):
    if isinstance(theta, np.ndarray):
        return function(theta)
    if isinstance(theta, dict):
        return {name: _map(function, branch) for name, branch in theta.items()}
    return [_map(function, branch) for branch in theta]
