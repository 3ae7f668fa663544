"""Residual schemes: how sublayers read from the residual stream and write to it.

With F a sublayer and N its norm, the next value of the stream x is

| option             | stream                | from                                                                 |
| ------------------ | --------------------- | -------------------------------------------------------------------- |
| `PreNorm`          | x + F(N(x))           | Radford et al. 2019 (GPT-2), section 2.3                             |
| `PostNorm`         | N(alpha x + F(x))     | Vaswani et al. 2017, section 3.1; alpha: Wang et al. 2022, "DeepNet" |
| `Sandwich`         | x + M(F(N(x)))        | Ding et al. 2021, "CogView", section 2.4; Gemma 2                    |
| `Reordered`        | x + N(F(x))           | OLMo et al. 2025, "2 OLMo 2 Furious", section 3.2                    |
| `Parallel`         | x + A(N(x)) + F(M(x)) | Wang, Komatsuzaki 2021 (GPT-J, M is N); Black et al. 2022 (GPT-NeoX) |
| `HyperConnections` | n of them, mixed      | Zhu et al. 2024                                                      |

Each scheme is a file with its option, which begins and ends the stream, and its module, which reads and writes in each
layer (model/residual/scheme.py). This file has the union of the options.
"""

from model.residual.hyper_connections import Dynamic, HyperConnections
from model.residual.multipliers import Multipliers
from model.residual.parallel import Parallel
from model.residual.post_norm import PostNorm
from model.residual.pre_norm import PreNorm
from model.residual.reordered import Reordered
from model.residual.sandwich import Sandwich

Residual = PreNorm | PostNorm | Sandwich | Reordered | Parallel | HyperConnections

__all__ = [
    "Dynamic",
    "HyperConnections",
    "Multipliers",
    "Parallel",
    "PostNorm",
    "PreNorm",
    "Reordered",
    "Residual",
    "Sandwich",
]
