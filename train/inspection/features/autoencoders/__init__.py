"""Architectures of autoencoders: what makes the code of features sparse, and the loss that trains it."""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    relu="ReLU",
    gated="Gated",
    jump_relu="JumpReLU",
    top_k="TopK",
    batch_top_k="BatchTopK",
    matryoshka="Matryoshka",
    dead="AuxK Resampling",
)
