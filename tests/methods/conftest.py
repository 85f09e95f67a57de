"""The base of the laws that follows its prompt."""

from tests.laws.conftest import prompted_base

__all__ = ["prompted_base"]
