"""The same step in PyTorch, as one would write it there, for comparison.

The layers have Flax's names, so that `load` copies parameters. Encoder and decoder see a critic
that is held, the critic sees draws that are detached: the two losses share no parameter, and one
backward pass of their sum is both players' gradients.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from cases import SCHOOLS_SIGMA, SCHOOLS_Y
from torch import nn

import avb_jax as avb
from avb_jax.contrast import log_scale_bias
from avb_jax.types import Tree

LOG_2PI = math.log(2.0 * math.pi)


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


def log_prior(z):
    return -0.5 * (z.square() + LOG_2PI).sum(-1)


def whiten(z, mean, factor):
    """[B, D], one factor for each; or all of z by one factor."""
    if factor.ndim == 2:
        return torch.linalg.solve_triangular(factor, (z - mean).mT, upper=False).mT
    return torch.linalg.solve_triangular(factor, (z - mean)[..., None], upper=False)[..., 0]


def log_scale(factor):
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def critic_terms(critic, context, z_tilde, z_r):
    """E_q[s] with the critic held, and the logistic loss with the draws held."""
    held = {name: p.detach() for name, p in critic.named_parameters()}
    context = None if context is None else context.detach()
    share = torch.func.functional_call(critic, held, (context, z_tilde)).mean()
    s_q, s_r = critic(context, z_tilde.detach()), critic(context, z_r)
    return share, F.softplus(-s_q).mean() + F.softplus(s_r).mean()


class ImageStep(nn.Module):
    """(x [B, pixels], noise) -> the two losses."""

    def __init__(self, config: avb.Config, pixels: int):
        super().__init__()
        self.config, rows = config, max(config.batch_size, 512)
        self.encoder = Basis(config, pixels)
        conv = config.decoder == "conv"
        self.decoder = ConvDecoder(config) if conv else MLPDecoder(config, pixels)
        self.critic = ResidualCritic(config, config.width)
        dim = config.latent_dim
        self.noise_shapes = [(rows, config.noise)] + 2 * [(config.batch_size, dim)]

    def prepare(self, images):
        return torch.bernoulli(images.flatten(1) / 255.0)

    def forward(self, x, noise, last, z_r):
        z, mean, factor, features = self.encoder(x, noise, last)
        share, critic_loss = critic_terms(self.critic, features, whiten(z, mean, factor), z_r)
        logits = self.decoder(z)
        reconstruction = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        squares = mean.square().sum(-1) + factor.square().sum((-2, -1))
        kl = 0.5 * (squares - self.config.latent_dim) - log_scale(factor)
        return kl.mean() + share - reconstruction, critic_loss


class PosteriorStep(nn.Module):
    """(nothing, noise) -> the two losses, for a log joint density of z [S, D]."""

    def __init__(self, config: avb.Config, log_joint):
        super().__init__()
        self.config, self.log_joint, dim = config, log_joint, config.latent_dim
        self.encoder, self.critic = OnePosterior(dim), ResidualCritic(config, None)
        self.bias = log_scale_bias(config.samples, dim, "full")
        self.noise_shapes = 2 * [(config.samples, dim)]

    def prepare(self, x):
        return x

    def forward(self, x, noise, z_r):
        z = self.encoder(noise)
        (z_tilde, factor), (z_r, _) = (self.whitened(draws) for draws in (z, z_r))
        share, critic_loss = critic_terms(self.critic, None, z_tilde, z_r)
        entropy = log_scale(factor) - self.bias + 0.5 * z.shape[-1] * (1.0 + LOG_2PI)
        return share - entropy - self.log_joint(z).mean(), critic_loss

    def whitened(self, z):
        mean = z.mean(0)
        factor = torch.linalg.cholesky(torch.cov(z.T, correction=0))
        return whiten(z, mean, factor), factor


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


def build(config: avb.Config, model: avb.Model, params: avb.Params, log_joint) -> nn.Module:
    """The losses of a config, from these parameters; `log_joint` where there are no images."""
    if log_joint is None:
        losses = ImageStep(config, math.prod(model.event_shape))
    else:
        losses = PosteriorStep(config, log_joint)
    trees = {"encoder": params.encoder, "decoder": params.decoder}
    for name, tree in {**trees, "critic": params.critic["critic"]}.items():
        if tree:
            part = getattr(losses, name)
            part.load_state_dict(of_flax(part, tree))
    return losses


class Trainer:
    """Both players' Adam, with the cosine of the config; eager, or by `torch.compile`."""

    def __init__(self, config: avb.Config, losses: nn.Module, compiled: bool):
        self.losses = losses
        self._run = torch.compile(losses) if compiled else losses
        vae = [p for name, p in losses.named_parameters() if not name.startswith("critic")]
        players = [(vae, config.learning_rate)]
        players += [(list(losses.critic.parameters()), config.critic_learning_rate)]
        self._optimizers = [torch.optim.Adam(p, lr, fused=True) for p, lr in players]
        self._schedules = [
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
            for optimizer in self._optimizers
        ]

    def step(self, batch: torch.Tensor) -> torch.Tensor:
        """One update of both; the losses, [2]."""
        noise = [torch.randn(shape) for shape in self.losses.noise_shapes]
        losses = torch.stack(self._run(self.losses.prepare(batch), *noise))
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
        return losses.detach()


def eight_schools(z):
    """`cases.eight_schools`: [S, 10] -> [S]."""
    y, sigma = torch.tensor(SCHOOLS_Y), torch.tensor(SCHOOLS_SIGMA)
    mu, log_tau, eta = 5.0 * z[:, :1], z[:, 1], z[:, 2:]
    offset = (y - mu - log_tau.exp()[:, None] * eta) / sigma
    of_data = -0.5 * (offset.square() + LOG_2PI).sum(-1) - sigma.log().sum()
    of_tau = math.log(10.0 / math.pi) + log_tau - F.softplus(2.0 * log_tau - math.log(25.0))
    of_tau = of_tau - math.log(25.0)
    return of_data + of_tau + log_prior(torch.cat([z[:, :1], eta], dim=-1))
