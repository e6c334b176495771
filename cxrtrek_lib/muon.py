"""Muon: momentum whose update is made orthogonal, for the weight matrices of small networks.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
(https://kellerjordan.github.io/posts/muon/). `torch.optim.Muon` takes matrices only and works in bfloat16,
which is many times slower than float32 on a processor; this one takes kernels of convolutions too.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz iteration of the paper: it drives every singular value to about 1 in five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST = 16  # a matrix with fewer rows or columns has too few directions to balance


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T (nearly) of a matrix [n, m] = U S V^T: all its singular values moved to between 0.7 and 1.2."""
    x = matrix / matrix.norm().clamp_min(1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    a, b, c = COEFFICIENTS
    # Every step multiplies x by a polynomial of x x^T: these factors are gathered, small as they are, so that
    # a wide matrix (a kernel's is nine times as wide as high) is multiplied twice instead of ten times.
    one = torch.eye(len(x), dtype=x.dtype, device=x.device)

    def polynomial(gram: Tensor) -> Tensor:
        return a * one + b * gram + c * gram @ gram

    gram = x @ x.T
    factor = factors = polynomial(gram)
    for _ in range(STEPS - 1):
        gram = factor @ gram @ factor
        factor = polynomial(gram)
        factors = factor @ factors
    x = factors @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions; a kernel [out, in, h, w] counts as a matrix [out, in h w].

    lr is the spectral norm of one update, about; weight decay is decoupled, as in AdamW.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad
                state = self.state[weight]
                if not state:
                    state["velocity"] = torch.zeros_like(gradient)
                velocity = state["velocity"]
                velocity.lerp_(gradient, 1 - group["momentum"])
                # Nesterov: look ahead along the momentum.
                update = orthogonal(gradient.lerp(velocity, group["momentum"]).flatten(1))
                rows, columns = update.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view(weight.shape), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def matrices(network: nn.Module) -> list[Tensor]:
    """Weights that Muon is for: trained, two or more dimensions, none of the first two under SMALLEST.

    Embeddings are left out, and so is a head that shares their weight: their rows are words, not directions.
    """
    words = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    return [
        p
        for p in network.parameters()
        if p.requires_grad and p.ndim >= 2 and min(p.shape[:2]) >= SMALLEST and id(p) not in words
    ]
