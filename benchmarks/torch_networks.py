"""The networks of `cases` in PyTorch: layers of the same names, and parameters taken over."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import avb_jax as avb
from avb_jax.types import Tree


def gelu(h):
    return F.gelu(h, approximate="tanh")


class MLP(nn.Module):
    def __init__(self, inputs: int, width: int, depth: int):
        super().__init__()
        sizes = [inputs] + [width] * depth
        for i in range(depth):
            self.add_module(f"Dense_{i}", nn.Linear(sizes[i], sizes[i + 1]))

    def forward(self, h):
        for layer in self.children():
            h = gelu(layer(h))
        return h


def triangular(entries, log_diagonal):
    return torch.tril(entries, -1) + torch.diag_embed(log_diagonal.exp())


class TriangularScale(nn.Module):
    def __init__(self, inputs: int, dim: int):
        super().__init__()
        self.Dense_0, self.Dense_1 = nn.Linear(inputs, dim), nn.Linear(inputs, dim * dim)

    def forward(self, h):
        log_scale = self.Dense_0(h)
        return triangular(self.Dense_1(h).unflatten(-1, (-1, log_scale.shape[-1])), log_scale)


class Trunk(nn.Module):
    def __init__(self, inputs: int, dim: int, width: int, depth: int):
        super().__init__()
        self.MLP_0, self.Dense_0 = MLP(inputs, width, depth), nn.Linear(width, dim)
        self.TriangularScale_0 = TriangularScale(width, dim)

    def forward(self, x):
        h = self.MLP_0(2.0 * x - 1.0)
        return h, self.Dense_0(h), self.TriangularScale_0(h)


class Basis(nn.Module):
    """`basis`, one draw for each x: z, mean and factor of q(z|x), and the features of x."""

    def __init__(self, config: avb.Config, pixels: int):
        super().__init__()
        dim, bases = config.latent_dim, config.num_bases
        self.trunk = Trunk(pixels, dim, config.width, config.depth)
        self.MLP_0, self.Dense_0 = MLP(config.noise, 64, 2), nn.Linear(64, bases)
        self.Dense_1 = nn.Linear(config.width, dim * bases)

    def forward(self, x, noise, last):
        h, location, scale = self.trunk(x)
        v = torch.tanh(self.Dense_0(self.MLP_0(noise)))
        mean_v, covariance_v = v.mean(0), torch.cov(v.T)
        b = self.Dense_1(h).unflatten(-1, (location.shape[-1], -1))
        a = scale @ b
        moved = (a @ v[: len(x), :, None] + scale @ last[..., None])[..., 0]
        spread = b @ covariance_v @ b.mT + torch.eye(location.shape[-1])
        factor = scale @ torch.linalg.cholesky(spread)  # of the covariance
        return location + moved, location + a @ mean_v, factor, h


class MLPDecoder(nn.Module):
    def __init__(self, config: avb.Config, pixels: int):
        super().__init__()
        self.MLP_0 = MLP(config.latent_dim, config.width, config.depth)
        self.Dense_0 = nn.Linear(config.width, pixels)

    def forward(self, z):
        return self.Dense_0(self.MLP_0(z))


class ConvDecoder(nn.Module):
    """For 28 × 28 pixels."""

    def __init__(self, config: avb.Config):
        super().__init__()
        self.Dense_0 = nn.Linear(config.latent_dim, config.width)
        self.Dense_1 = nn.Linear(config.width, 7 * 7 * 64)
        self.ConvTranspose_0 = nn.ConvTranspose2d(64, 64, 5, stride=2, padding=1)
        self.ConvTranspose_1 = nn.ConvTranspose2d(64, 32, 5, stride=2, padding=1)
        self.Conv_0 = nn.Conv2d(32, 1, 5, padding=2)
        self.to(memory_format=torch.channels_last)

    def forward(self, z):
        h = gelu(self.Dense_1(gelu(self.Dense_0(z))))
        h = h.view(-1, 7, 7, 64).permute(0, 3, 1, 2)  # channels last
        h = gelu(self.ConvTranspose_0(h)[..., :14, :14])
        h = gelu(self.ConvTranspose_1(h)[..., :28, :28])
        return self.Conv_0(h).flatten(1)


class ResidualCritic(nn.Module):
    def __init__(self, config: avb.Config, context: int | None):
        super().__init__()
        width, self.depth = config.critic_width, config.critic_depth
        self.conditional = context is not None
        self.Dense_0 = nn.Linear(3 * config.latent_dim, width)
        if self.conditional:
            trunk = config.critic_trunk_width
            self.MLP_0 = MLP(context, trunk, config.critic_trunk_depth)
        names = iter(range(1, 2 * self.depth + 2))
        for _ in range(self.depth):
            self.add_module(f"Dense_{next(names)}", nn.Linear(width, width))
            if self.conditional:
                self.add_module(f"Dense_{next(names)}", nn.Linear(trunk, width, bias=False))
        self.add_module(f"Dense_{next(names)}", nn.Linear(width, 1))

    def forward(self, context, z):
        first, *layers, last = [m for m in self.children() if isinstance(m, nn.Linear)]
        h = first(torch.cat([z, z.square() - 1.0, z.tanh()], dim=-1))
        if self.conditional:
            features = self.MLP_0(context)
            for of_h, of_x in zip(layers[::2], layers[1::2], strict=True):
                h = h + gelu(of_h(h) + of_x(features))
        else:
            for layer in layers:
                h = h + gelu(layer(h))
        return last(h)[..., 0]


class OnePosterior(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.mean, self.log_scale = (nn.Parameter(torch.zeros(1, dim)) for _ in range(2))
        self.scale = nn.Parameter(torch.zeros(1, dim, dim))
        self.MLP_0, self.Dense_0 = MLP(dim, 128, 2), nn.Linear(128, dim)

    def forward(self, noise):
        moved = noise + self.Dense_0(self.MLP_0(noise))
        return self.mean + moved @ triangular(self.scale, self.log_scale)[0].mT


def of_flax(module: nn.Module, params: Tree) -> dict[str, torch.Tensor]:
    """Flax's parameters, or gradients, by the names and in the layouts of the module's."""
    found = {}
    for name, _ in module.named_parameters():
        *path, leaf = name.split(".")
        tree, layer = params["params"], module.get_submodule(".".join(path))
        for part in path:
            tree = tree[part]
        value = torch.tensor(np.asarray(tree["kernel" if leaf == "weight" else leaf]))
        found[name] = _in_layout(layer, value)
    return found


def _in_layout(layer: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """Kernels are [..., in, out] in Flax, and those of transposed convolutions are reversed."""
    if isinstance(layer, nn.ConvTranspose2d) and value.ndim == 4:
        return value.flip(0, 1).permute(2, 3, 0, 1)
    if isinstance(layer, nn.Conv2d) and value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    return value.T if isinstance(layer, nn.Linear) and value.ndim == 2 else value
