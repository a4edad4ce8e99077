"""The metrics file: what is written comes back, also after a run was killed in its midst."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from avb_jax.reporting import MetricsWriter, read_metrics


def test_values_of_any_library_come_back_as_columns_with_nan_where_missing(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(np.int64(10), {"elbo_estimate": jnp.float32(-1.5), "critic_loss": 2})
        writer.write(20, {"elbo_estimate": np.float64(-0.5), "balance": 0.25})
    columns = read_metrics(path)
    assert list(columns) == ["step", "elbo_estimate", "critic_loss", "balance"]
    assert columns["step"].dtype == np.int64 and columns["step"].tolist() == [10, 20]
    np.testing.assert_array_equal(columns["elbo_estimate"], [-1.5, -0.5])
    np.testing.assert_array_equal(columns["critic_loss"], [2.0, math.nan])
    np.testing.assert_array_equal(columns["balance"], [math.nan, 0.25])


def test_a_line_is_on_disk_before_the_file_is_closed(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(1, {"a": 3.0})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 3.0}\n'


def test_nan_and_infinity_are_null_so_that_any_json_reader_copes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(1, {"a": math.nan, "b": -math.inf, "c": 1.0})
    assert json.loads(path.read_text()) == {"step": 1, "a": None, "b": None, "c": 1.0}
    assert np.isnan(read_metrics(path)["b"]).all()


@pytest.mark.parametrize("torn", ["", '{"step": 40, "a', '{"step": 40, "a": 4.0}'])
def test_a_resumed_run_drops_later_steps_and_a_torn_line(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"a": step / 10})
    path.write_text(path.read_text() + torn)
    with MetricsWriter(path, step=20) as writer:
        writer.write(30, {"a": -1.0})
    columns = read_metrics(path)
    assert columns["step"].tolist() == [10, 20, 30]
    assert columns["a"].tolist() == [1.0, 2.0, -1.0]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_starts_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "a": 1.0}\n')
    MetricsWriter(path).close()
    assert path.read_text() == ""
    assert {name: len(column) for name, column in read_metrics(path).items()} == {"step": 0}


def test_reading_leaves_out_a_line_that_is_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "a": 1.0}\n{"step": 6, "a":')
    assert read_metrics(path)["step"].tolist() == [5]


def test_damage_before_the_last_line_is_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 5}\nnonsense\n{"step": 6}\n'
    path.write_text(text)
    with pytest.raises(ValueError, match="line 2 of the metrics file .* is damaged"):
        read_metrics(path)
    with pytest.raises(ValueError, match="line 2"):
        MetricsWriter(path, step=6)
    assert path.read_text() == text


def test_errors_name_what_was_wrong(tmp_path):
    with pytest.raises(ValueError, match="absent.jsonl does not exist"):
        read_metrics(tmp_path / "absent.jsonl")
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        with pytest.raises(ValueError, match=r"'a' was of shape \(2,\); it must be a scalar"):
            writer.write(1, {"a": np.zeros(2)})
