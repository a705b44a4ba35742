"""Questions about whole runs: reports, sweeps, paired seeds, benchmarks."""

from .comparison import compare_reports, read_report
from .evaluate import EvalConfig, evaluate_run

__all__ = ["EvalConfig", "compare_reports", "evaluate_run", "read_report"]
