"""What ranks say: ECDFs and verdicts by hand, and the figure made of a file."""

import numpy as np

from avb_jax.posterior import ecdf_band
from avb_jax.reporting import band_verdict, calibration_table, draw_calibration
from avb_jax.reporting.calibration import rank_ecdf

BAND = {"fractions": [0.25, 0.5, 0.75, 1.0], "lower": [0, 0.3, 0.6, 1], "upper": [0.5, 0.7, 1, 1]}


def test_the_ecdf_counts_ranks_up_to_each():
    np.testing.assert_array_equal(rank_ecdf([0, 3, 1, 1], 3), [0.25, 0.75, 0.75, 1.0])


def test_one_point_outside_is_outside():
    assert band_verdict([0, 1, 2, 3], BAND) == {"inside": True, "share": 1.0, "difference": 0.0}
    found = band_verdict([0, 1, 1, 3], BAND)
    assert found == {"inside": False, "share": 0.75, "difference": 0.25}
    assert band_verdict([3, 3, 3, 3], BAND)["difference"] == -0.75


def test_biased_ranks_leave_the_band_and_uniform_ones_do_not(tmp_path):
    rng = np.random.default_rng(0)
    band = dict(zip(("fractions", "lower", "upper"), ecdf_band(500, 20), strict=True))
    ranks = {"mu": rng.integers(0, 21, 500), "tau": np.minimum(rng.integers(0, 24, 500), 20)}
    parameters = {name: {**band_verdict(r, band), "ranks": r} for name, r in ranks.items()}
    assert parameters["mu"]["inside"] and not parameters["tau"]["inside"]
    found = {"num_simulations": 500, "band": band, "parameters": parameters, "exact": parameters}
    lines = calibration_table(found).splitlines()
    assert lines[2].startswith("| mu | yes | 100% |") and lines[3].startswith("| tau | no |")
    path = draw_calibration(found, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
