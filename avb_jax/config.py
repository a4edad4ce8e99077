"""`Config`: every choice of a run, validated, what follows from it, and its file."""

import dataclasses
import json
from pathlib import Path

from avb_jax.choices import (
    EXPLICIT_ENCODERS,
    IMPLICIT_ENCODERS,
    CriticChoices,
    DataChoices,
    NetworkChoices,
    TrainingChoices,
)
from avb_jax.options import check_option


# The last of the bases has the first fields.
@dataclasses.dataclass(frozen=True)
class Config(TrainingChoices, CriticChoices, NetworkChoices, DataChoices):
    """Every choice of a run. Fields are the command line's flags, described there (`--help`).

    Raises:
        ValueError: for a value or a combination of values that is not allowed.

    Examples:
        >>> Config(encoder="noise-mlp").samples  # S, where it is not given
        24
        >>> Config(latent_dim=2).survey_side, Config(latent_dim=3).survey_side
        (16, 0)
        >>> Config(latent_dim=0)
        Traceback (most recent call last):
        ValueError: latent_dim was 0; allowed is 1 or more
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_option(field, getattr(self, field.name))
        self._check_combinations()

    def _check_combinations(self):
        if self.explicit and self.contrast in ("moments", "learned"):
            raise ValueError(
                f"contrast was {self.contrast!r} with the explicit encoder {self.encoder!r}, whose "
                f"KL is exact; leave it unset, or take one of {', '.join(IMPLICIT_ENCODERS)}"
            )
        if not self.explicit and self.encoder != "basis" and self.noise < self.latent_dim:
            raise ValueError(
                f"noise_dim was {self.noise} with latent_dim {self.latent_dim}; q(z|x) has a "
                f"density only from noise_dim {self.latent_dim} on"
            )
        if self.encoder == "noise-conv" and self.refinement_steps:
            raise ValueError(
                f"refinements was {self.refinements} with encoder 'noise-conv'; allowed is 0"
            )
        if self.survey and (self.latent_dim > 2 or self.encoder == "noise-conv"):
            raise ValueError(
                f"survey was {self.survey} with latent_dim {self.latent_dim} and encoder "
                f"{self.encoder!r}; allowed is 0"
            )
        if self.likelihood != "bernoulli" and self.binarization != "none":
            raise ValueError(
                f"likelihood was {self.likelihood!r} with binarization {self.binarization!r}; "
                "allowed is binarization 'none'"
            )
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"microbatches was {self.microbatches} with batch_size {self.batch_size}; allowed "
                "are its divisors"
            )
        if self.microbatches > 1 and (self.critic_steps > 1 or self.update == "alternating"):
            raise ValueError(
                f"microbatches was {self.microbatches} with critic_steps {self.critic_steps} and "
                f"update {self.update!r}; allowed are 1 and 'simultaneous'"
            )
        if self.samples < self._least_samples():
            raise ValueError(
                f"num_samples was {self.samples}; {self.covariance} moments of the draws in "
                f"latent_dim {self.latent_dim} need at least {self._least_samples()}"
            )
        for name in ("decoder_samples", "critic_samples"):
            if (getattr(self, name) or 1) > self.samples:
                raise ValueError(
                    f"{name} was {getattr(self, name)}; allowed is up to num_samples, here "
                    f"{self.samples}"
                )

    def _least_samples(self) -> int:
        if not self.moments_from_draws:
            return 1
        return 2 + (self.latent_dim if self.covariance == "full" else 1)

    @property
    def explicit(self) -> bool:
        """Whether q(z|x) has a density of its own, and there is no critic."""
        return self.encoder in EXPLICIT_ENCODERS

    @property
    def contrast_name(self) -> str:
        """The contrast in force."""
        return self.contrast or ("prior" if self.explicit else "moments")

    @property
    def moments_from_draws(self) -> bool:
        """Whether the contrast's moments are those of the S draws of each x."""
        return self.contrast_name == "moments" and self.encoder in ("noise-mlp", "noise-conv")

    @property
    def asks_decoder(self) -> bool:
        """Whether the encoder asks the decoder, unless something else is said."""
        return self.encoder in ("noise-mlp", "basis")

    @property
    def refinement_steps(self) -> int:
        """Times the encoder asks the decoder."""
        if self.refinements is not None:
            return self.refinements
        # In two dimensions the score is steep, and runs that ask for it may blow up.
        return int(self.asks_decoder and self.latent_dim > 2)

    @property
    def survey_side(self) -> int:
        """Points a side of the grid on which the encoder asks the decoder."""
        if self.survey is not None:
            return self.survey
        return 16 * int(self.asks_decoder and self.latent_dim <= 2)

    @property
    def layer_dtype(self) -> str | None:
        """What hidden layers compute in; None: in the dtype of what they are given."""
        return None if self.compute_dtype == "float32" else self.compute_dtype

    @property
    def evaluated(self) -> "Config":
        """What its evaluation computes in: float32."""
        return dataclasses.replace(self, compute_dtype="float32")

    @property
    def noise(self) -> int:
        """N."""
        return self.noise_dim or self.latent_dim

    @property
    def samples(self) -> int:
        """S, draws of q for each data point of a step."""
        if self.num_samples is not None:
            return self.num_samples
        return max(16, 3 * self.latent_dim) if self.moments_from_draws else self.decoded

    @property
    def decoded(self) -> int:
        """How many of the S draws are decoded."""
        if self.decoder_samples is not None:
            return self.decoder_samples
        return 1 if self.explicit else min(4, self.num_samples or 4)

    def to_json(self) -> str:
        """Every field, as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def same_run_as(self, other: "Config") -> list[str]:
        """Names of the fields that forbid resuming a run of `self` as `other`."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if not field.metadata["same_run"]
            and getattr(self, field.name) != getattr(other, field.name)
        ]


def load_config(path: Path) -> Config:
    """Reads a `config.json`.

    Raises:
        ValueError: if it is missing, damaged, or names fields that `Config` has not.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; allowed is the workdir of a run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not the configuration of a run: {error}") from None
    return parse_config(text, str(path))


def parse_config(text: str, where: str) -> Config:
    """The `Config` that wrote this JSON; `where` it was found.

    Raises:
        ValueError: if it is damaged, or names fields that `Config` has not.
    """
    try:
        return Config(**json.loads(text))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{where} is not the configuration of a run: {error}") from None
