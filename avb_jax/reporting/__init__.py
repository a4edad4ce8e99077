"""What a run reports: its metrics, its likelihoods, its pictures, all made from files."""

from avb_jax.reporting.accuracy import accuracy_line, accuracy_table, draw_accuracy
from avb_jax.reporting.calibration import band_verdict, calibration_table, draw_calibration
from avb_jax.reporting.comparison import draw_comparison, run_names
from avb_jax.reporting.figures import draw_figures
from avb_jax.reporting.gallery import draw_latent_spaces
from avb_jax.reporting.images import image_grid, resize, save_png
from avb_jax.reporting.metrics import MetricsWriter, read_metrics
from avb_jax.reporting.pace import draw_pace
from avb_jax.reporting.page import write_report
from avb_jax.reporting.posteriors import (
    draw_joint,
    draw_posteriors,
    posterior_line,
    posterior_summary,
    posterior_table,
    read_draws,
    save_draws,
)
from avb_jax.reporting.robustness import draw_robustness, robustness_line, robustness_table
from avb_jax.reporting.schools import schools_line, schools_table
from avb_jax.reporting.snapshot import read_snapshot, take_snapshot
from avb_jax.reporting.sweeps import sweep_line, sweep_table, training_seconds
from avb_jax.reporting.tables import (
    bracket_line,
    comparison_table,
    evaluation_table,
    read_evaluation,
    remarks,
    write_evaluation,
)
from avb_jax.reporting.tensorboard import TensorBoardWriter
from avb_jax.reporting.traversals import (
    TRAVERSALS,
    draw_traversals,
    traversal_centre,
    traversal_points,
)

__all__ = [
    "MetricsWriter",
    "TRAVERSALS",
    "TensorBoardWriter",
    "accuracy_line",
    "accuracy_table",
    "band_verdict",
    "bracket_line",
    "calibration_table",
    "comparison_table",
    "draw_accuracy",
    "draw_calibration",
    "draw_comparison",
    "draw_figures",
    "draw_latent_spaces",
    "draw_joint",
    "draw_pace",
    "draw_posteriors",
    "draw_robustness",
    "draw_traversals",
    "evaluation_table",
    "image_grid",
    "posterior_line",
    "posterior_summary",
    "posterior_table",
    "read_draws",
    "read_evaluation",
    "read_metrics",
    "read_snapshot",
    "remarks",
    "resize",
    "robustness_line",
    "robustness_table",
    "run_names",
    "save_draws",
    "save_png",
    "schools_line",
    "schools_table",
    "sweep_line",
    "sweep_table",
    "take_snapshot",
    "training_seconds",
    "traversal_centre",
    "traversal_points",
    "write_evaluation",
    "write_report",
]
