"""The same step in PyTorch, as one would write it there, for comparison.

Encoder and decoder see a critic that is held, the critic sees draws that are detached: the two
losses share no parameter, and one backward pass of their sum is both players' gradients.
"""

import math

import torch
import torch.nn.functional as F
from cases import SCHOOLS_SIGMA, SCHOOLS_Y
from torch import nn
from torch_networks import (
    Basis,
    ConvDecoder,
    MLPDecoder,
    OnePosterior,
    ResidualCritic,
    of_flax,
)

import avb_jax as avb
from avb_jax.contrast import log_scale_bias

LOG_2PI = math.log(2.0 * math.pi)


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
