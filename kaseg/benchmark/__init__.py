"""Speed, memory and cost of models, ours and others, engine by engine."""

from kaseg.benchmark.engines import ENGINES
from kaseg.benchmark.models import build_model
from kaseg.benchmark.run import benchmark, to_markdown

__all__ = ["ENGINES", "benchmark", "build_model", "to_markdown"]
