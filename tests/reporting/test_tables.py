"""Evaluation files and tables: values, directions of bounds, and damaged files."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.reporting import (
    bracket_line,
    comparison_table,
    evaluation_table,
    read_evaluation,
    write_evaluation,
)

IMPORTANCE = {
    "name": "log_likelihood",
    "method": "importance",
    "kind": "lower bound",
    "value": -97.123,
    "stderr": 0.352,
    "n": 10000,
    "effective_sample_size": 63.24,
    "unreliable_share": 0.0125,
    "binarization": "dynamic",
}
CRITIC = {"name": "elbo", "kind": "estimate", "value": -96.5, "stderr": 0.4, "n": 10000}
EXACT = {"name": "quadrature", "kind": "exact", "value": -97.01, "n": 500}
FORWARD = {"name": "simulated", "kind": "lower bound", "value": -96.2, "stderr": 0.5, "n": 500}
REVERSE = {"name": "simulated", "kind": "upper bound", "value": -96.0, "stderr": 0.5, "n": 500}
PROBE = {"name": "probe", "kind": "estimate", "value": 0.9, "stderr": 0.01, "unit": "of 1"}


def test_each_value_stands_under_its_own_direction():
    """And those of one quantity and one method in one row."""
    entries = [IMPORTANCE, CRITIC, EXACT, FORWARD, REVERSE, PROBE]
    assert evaluation_table(entries).splitlines() == [
        "quantity        by            is at least     is exactly       is about     is at most  unit  images   ESS  k̂ > 0.7  pixels",  # noqa: E501
        "--------------  ----------  -------------  -------------  -------------  -------------  ----  ------  ----  -------  -------",  # noqa: E501
        "log_likelihood  importance  -97.12 ± 0.35                                               nats  10,000  63.2     1.2%  dynamic",  # noqa: E501
        "elbo                                                      -96.50 ± 0.40                 nats  10,000",  # noqa: E501
        "quadrature                                 -97.01                                       nats     500",  # noqa: E501
        "simulated                   -96.20 ± 0.50                                -96.00 ± 0.50  nats     500",  # noqa: E501
        "probe                                                     0.900 ± 0.010                 of 1",  # noqa: E501
    ]


@pytest.mark.parametrize("kind", ["lower bound", "upper bound"])
def test_a_swapped_direction_is_seen(kind):
    """The same number under another kind stands in another column."""
    other = {"lower bound": "upper bound", "upper bound": "lower bound"}[kind]
    both = [{**EXACT, "name": "a"}, {**FORWARD, "name": "b"}, {**REVERSE, "name": "c"}]
    right, wrong = (
        evaluation_table([*both, {**EXACT, "name": "d", "kind": k}]).splitlines()[-1]
        for k in (kind, other)
    )
    assert (right.index("-97.01") < wrong.index("-97.01")) == (kind == "lower bound")


def test_the_bracket_is_between_the_highest_lower_and_the_lowest_upper_bound():
    """Of that name alone; one side alone is no bracket."""
    values = {"lower bound": (-3.0, -2.5), "upper bound": (-1.0, -2.25), "estimate": (-2.3,)}
    entries = [
        {"name": "elbo", "kind": kind, "value": v} for kind, vs in values.items() for v in vs
    ]
    others = [{**entry, "name": "kl_to_prior", "value": -2.4} for entry in entries]
    line = "elbo between -2.500 and -2.250 nats, a gap of 0.250"
    assert bracket_line(entries + others) == line
    assert bracket_line(entries[:2]) == ""
    table = evaluation_table(entries).splitlines()
    assert len(table) == 3 and table[2].endswith("at most: not of log p(x)")


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (0.00123, "-1.2346 ± 0.0012"),
        (0.0999, "-1.235 ± 0.100"),
        (12.3, "-1.2 ± 12.3"),
        (1e-9, "-1.2346 ± 0.0000"),
        (None, "-1.235"),
        (0.0, "-1.235"),
        (math.nan, "-1.235 ± nan"),
    ],
)
def test_decimals_follow_the_standard_error(stderr, expected):
    entry = {"name": "a", "kind": "lower bound", "value": -1.23456, "stderr": stderr}
    row = evaluation_table([entry]).splitlines()[2]
    assert row[1:].replace("nats", "").strip() == expected


def test_runs_stand_together_by_quantity():
    better = {**IMPORTANCE, "value": -95.5}
    rows = comparison_table({"avb": [IMPORTANCE, CRITIC], "vae": [better]}).splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == [
        "log_likelihood",
        "log_likelihood",
        "elbo",
    ]
    assert " avb " in rows[0] and "-97.12 ± 0.35" in rows[0]
    assert " vae " in rows[1] and "-95.50 ± 0.35" in rows[1]
    assert " avb " in rows[2] and "-96.50 ± 0.40" in rows[2]


def test_several_splits_are_told_apart():
    splits = [{**IMPORTANCE, "split": split} for split in ("test", "validation")]
    titles, _, *rows = comparison_table({"avb": splits}).splitlines()
    assert "split" in titles and " test " in rows[0] and " validation " in rows[1]
    assert "split" not in comparison_table({"avb": splits[:1]})


def test_entries_come_back_as_they_were(tmp_path):
    path = tmp_path / "run" / "evaluation.json"
    entry = {**IMPORTANCE, "value": jnp.float32(-97.5), "n": np.int64(7), "sizes": np.arange(3)}
    write_evaluation(path, [entry, CRITIC])
    first, second = read_evaluation(path)
    assert first == {**IMPORTANCE, "value": -97.5, "n": 7, "sizes": [0, 1, 2]}
    assert second == CRITIC
    assert [file.name for file in path.parent.iterdir()] == ["evaluation.json"]


def test_values_that_are_not_finite_are_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "evaluation.json"
    write_evaluation(path, [{**EXACT, "value": -math.inf, "stderr": math.nan}])
    assert json.loads(path.read_text())[0]["value"] is None
    (entry,) = read_evaluation(path)
    assert math.isnan(entry["value"]) and math.isnan(entry["stderr"])
    assert "nan" in evaluation_table([entry])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ('[{"name": "a", "kind', "is damaged; it must be JSON"),
        ('{"name": "a"}', "must hold a list"),
        ('[{"name": "a", "kind": "exact"}]', "must have name, kind and value"),
        ("[3]", "must have name, kind and value"),
        ('[{"name": "a", "kind": "bound", "value": 1}]', "was 'bound'; allowed are lower bound, "),
    ],
)
def test_a_missing_or_damaged_file_is_one_clear_sentence(tmp_path, content, message):
    path = tmp_path / "evaluation.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_evaluation(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_kind_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "evaluation.json"
    write_evaluation(path, [EXACT])
    wrong = {**EXACT, "kind": "guess"}
    with pytest.raises(ValueError, match="kind of the entry 'quadrature' .* was 'guess'"):
        write_evaluation(path, [wrong])
    with pytest.raises(ValueError, match="was 'guess'"):
        evaluation_table([wrong])
    with pytest.raises(ValueError, match="was 'guess'"):
        comparison_table({"run": [wrong]})
    assert read_evaluation(path) == [EXACT]
