"""The package's metadata; its requirements are in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INFERENCE = ["numpyro>=0.20,<0.23"]
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.7,<10",
    "mkdocstrings[python]>=1.0,<2",
    "latex2mathml>=3.78,<4",
]


def requirements() -> list[str]:
    """The lines of requirements.txt that are neither empty nor comments."""
    lines = (line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="avb_jax",
    version="0.1.0",
    description="Adversarial Variational Bayes in JAX and Flax: latent-variable models with "
    "implicit posteriors, and likelihoods that are bounds.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The repository's one name: documentation, notebooks and citation are tested to have the same.
    url="https://github.com/avb-jax/avb_jax",
    python_requires=">=3.11",
    packages=find_packages(include=["avb_jax", "avb_jax.*"]),
    package_data={"avb_jax": ["py.typed"]},
    install_requires=requirements(),
    extras_require={
        "test": [
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.17.6,<0.18",
            "mypy>=2.4,<3",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "tensorboardX>=2.6.2",
            *DOCS,
            *INFERENCE,
        ],
        "docs": DOCS,
        "explore": ["panel>=1.5,<2"],
        "tensorboard": ["tensorboardX>=2.6.2"],
        "inference": INFERENCE,
        "benchmark": ["torch>=2.13,<3", "psutil>=6.0"],
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)
