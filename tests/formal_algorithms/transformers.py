"""Algorithms 1 to 10 of Phuong, Hutter 2022, "Formal Algorithms for Transformers" (arXiv 2207.09238), in NumPy.

One function for each algorithm, written from its equations, with the paper's names. A sequence is a matrix with a
column for each token. Tokens and positions count from 0 here, and from 1 in the paper. Parameters are nested dicts;
d_e is the width of the stream, d_attn that of queries and keys, d_mid that of values, d_mlp that of the hidden layer,
N_V the size of the vocabulary, l_x and l_z the lengths of the sequences.

Parameters may be complex: training.py takes derivatives by a complex step, and so max and ReLU look at real parts.
"""

import numpy as np
from scipy.special import erf


def token_embedding(v, W_e):
    """Algorithm 1: the column (d_e,) of the token v of W_e (d_e, N_V)."""
    return W_e[:, v]


def positional_embedding(t, W_p):
    """Algorithm 2: the column (d_e,) of the position t of W_p (d_e, l_max)."""
    return W_p[:, t]


def single_query_attention(e, context, W):
    """Algorithm 3: the vector (d_out,) that a token e (d_in,) reads from tokens e_t, a list of vectors (d_in,)."""
    q = W["W_q"] @ e + W["b_q"]
    k = [W["W_k"] @ e_t + W["b_k"] for e_t in context]
    v = [W["W_v"] @ e_t + W["b_v"] for e_t in context]
    scores = np.array([q @ k_t for k_t in k]) / np.sqrt(len(q))
    alpha = softmax(scores)
    return sum(alpha_t * v_t for alpha_t, v_t in zip(alpha, v, strict=True))


def attention(X, Z, W, mask):
    """Algorithm 4: the values (d_out, l_x) that the tokens X (d_x, l_x) read from the context Z (d_z, l_z).

    `mask` (l_z, l_x) is 1 where the column of X may see the column of Z.
    """
    Q = W["W_q"] @ X + W["b_q"][:, None]
    K = W["W_k"] @ Z + W["b_k"][:, None]
    V = W["W_v"] @ Z + W["b_v"][:, None]
    S = np.where(mask, K.T @ Q / np.sqrt(len(K)), -np.inf)
    return V @ softmax(S)


def multi_head_attention(X, Z, W, mask):
    """Algorithm 5: the values of all heads, one below the other, through W_o (d_out, H d_mid)."""
    Y = np.concatenate([attention(X, Z, W_h, mask) for W_h in W["heads"]])
    return W["W_o"] @ Y + W["b_o"][:, None]


def layer_norm(e, gamma, beta):
    """Algorithm 6: e (d_e,) with mean 0 and variance 1, scaled and shifted."""
    m = e.sum() / len(e)
    v = ((e - m) ** 2).sum() / len(e)
    return (e - m) / np.sqrt(v) * gamma + beta


def unembedding(e, W_u):
    """Algorithm 7: the probabilities (N_V,) of the next token, of e (d_e,) and W_u (N_V, d_e)."""
    return softmax(W_u @ e)


def ed_transformer(z, x, theta):
    """Algorithm 8: an encoder-decoder (Vaswani et al. 2017); P (N_V, l_x), whose column t is about the token t + 1.

    The paper numbers the norms and MLPs of a decoder layer on from those of an encoder layer: here too.
    """
    Z = _embedded(z, theta)
    for W in theta["encoder"]:
        Z = Z + multi_head_attention(Z, Z, W["attention"], _everything(Z, Z))
        Z = _norm_columns(Z, W["gamma_1"], W["beta_1"])
        Z = Z + _mlp(Z, W["mlp"], relu)
        Z = _norm_columns(Z, W["gamma_2"], W["beta_2"])
    X = _embedded(x, theta)
    for W in theta["decoder"]:
        X = X + multi_head_attention(X, X, W["attention"], causal(X))
        X = _norm_columns(X, W["gamma_3"], W["beta_3"])
        X = X + multi_head_attention(X, Z, W["cross_attention"], _everything(Z, X))
        X = _norm_columns(X, W["gamma_4"], W["beta_4"])
        X = X + _mlp(X, W["mlp"], relu)
        X = _norm_columns(X, W["gamma_5"], W["beta_5"])
    return _unembedded(X, theta)


def e_transformer(x, theta, mask=None):
    """Algorithm 9: an encoder (BERT, Devlin et al. 2019); P (N_V, l_x), whose column t is about the token t.

    The paper's mask is 1 everywhere; a test gives another one.
    """
    X = _embedded(x, theta)
    mask = _everything(X, X) if mask is None else mask
    for W in theta["layers"]:
        X = X + multi_head_attention(X, X, W["attention"], mask)
        X = _norm_columns(X, W["gamma_1"], W["beta_1"])
        X = X + _mlp(X, W["mlp"], gelu)
        X = _norm_columns(X, W["gamma_2"], W["beta_2"])
    X = gelu(theta["W_f"] @ X + theta["b_f"][:, None])
    X = _norm_columns(X, theta["gamma"], theta["beta"])
    return _unembedded(X, theta)


def d_transformer(x, theta):
    """Algorithm 10: a decoder (GPT-2, Radford et al. 2019); P (N_V, l_x), whose column t is about the token t + 1."""
    X = _embedded(x, theta)
    for W in theta["layers"]:
        normed = _norm_columns(X, W["gamma_1"], W["beta_1"])
        X = X + multi_head_attention(normed, normed, W["attention"], causal(X))
        normed = _norm_columns(X, W["gamma_2"], W["beta_2"])
        X = X + _mlp(normed, W["mlp"], gelu)
    X = _norm_columns(X, theta["gamma"], theta["beta"])
    return _unembedded(X, theta)


def softmax(A):
    """The softmax of every column; the largest entry is taken off, which changes no result."""
    weights = np.exp(A - A.real.max(axis=0))
    return weights / weights.sum(axis=0)


def relu(A):
    """max(0, A)."""
    return np.where(A.real > 0, A, 0)


def gelu(A):
    """A times the standard normal distribution function of A (Hendrycks, Gimpel 2016)."""
    return A * (1 + erf(A / np.sqrt(2))) / 2


def causal(X):
    """The mask of unidirectional attention: 1 where the row, the number of the token seen, is at most the column."""
    return np.triu(np.ones((X.shape[1], X.shape[1])))


def _everything(Z, X):
    return np.ones((Z.shape[1], X.shape[1]))


def _embedded(x, theta):
    columns = [token_embedding(v, theta["W_e"]) + positional_embedding(t, theta["W_p"]) for t, v in enumerate(x)]
    return np.stack(columns, axis=1)


def _unembedded(X, theta):
    return np.stack([unembedding(e, theta["W_u"]) for e in X.T], axis=1)


def _norm_columns(X, gamma, beta):
    return np.stack([layer_norm(e, gamma, beta) for e in X.T], axis=1)


def _mlp(X, W, activation):
    """W_out activation(W_in X + b_in) + b_out: the paper's W_mlp1 and W_mlp2, or in a decoder W_mlp3 and W_mlp4."""
    hidden = activation(W["W_in"] @ X + W["b_in"][:, None])
    return W["W_out"] @ hidden + W["b_out"][:, None]
