"""Muon against PyTorch's own, against the singular value decomposition, and on a kernel of a convolution."""

import pytest
import torch
from torch import nn

from cxrtrek_lib import muon


@pytest.mark.parametrize("shape", [(24, 24), (16, 80), (80, 16)])
def test_an_update_is_the_orthogonal_factor_of_its_gradient(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, spread, right = torch.linalg.svd(matrix, full_matrices=False)
    found = torch.linalg.svdvals(muon.orthogonal(matrix))
    kept = spread / spread.max() > 0.05  # five steps do not lift the faintest directions all the way
    assert found[: kept.sum()].min() > 0.6 and found.max() < 1.3
    alignment = torch.linalg.diagonal(left.T @ muon.orthogonal(matrix) @ right.T)
    assert alignment[kept].min() > 0.6


def test_it_walks_the_path_of_torch_optim_muon():
    start = torch.randn(48, 32, generator=torch.Generator().manual_seed(1))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    mine, torchs = muon.Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    target = torch.randn(48, 32, generator=torch.Generator().manual_seed(2))
    for _ in range(10):
        for weight, optimiser in ((ours, mine), (theirs, torchs)):
            weight.grad = weight.detach() - target
            optimiser.step()
    moved = (theirs - start).norm()
    # PyTorch iterates in bfloat16, which keeps about three digits.
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_kernel_counts_as_a_matrix_whatever_its_memory_layout():
    kernel = torch.randn(16, 20, 3, 3, generator=torch.Generator().manual_seed(3))
    gradient = torch.randn(16, 20, 3, 3, generator=torch.Generator().manual_seed(4))
    flat = nn.Parameter(kernel.flatten(1).clone())
    layouts = [
        nn.Parameter(kernel.clone()),
        nn.Parameter(kernel.clone().to(memory_format=torch.channels_last)),
    ]
    flat.grad = gradient.flatten(1)
    muon.Muon([flat], lr=0.1).step()
    for weight in layouts:
        weight.grad = gradient.clone()
        muon.Muon([weight], lr=0.1).step()
        assert torch.allclose(weight.flatten(1), flat, atol=1e-6)


def test_words_norms_and_thin_layers_are_left_to_another_optimiser():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(50, 32), nn.Linear(32, 50, bias=False)
            self.head.weight = self.words.weight
            self.inner, self.norm, self.thin = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 3)

    network = Tied()
    (found,) = muon.matrices(network)
    assert found is network.inner.weight
