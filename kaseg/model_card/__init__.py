"""The card (`README.md`) of a model: its facts, its template, and the callback that collects the facts."""

from kaseg.model_card.callback import ModelCardCallback
from kaseg.model_card.card import render_card
from kaseg.model_card.facts import CardFacts
from kaseg.model_card.sources import DataSource, TeacherSource

__all__ = ["CardFacts", "DataSource", "ModelCardCallback", "TeacherSource", "render_card"]
