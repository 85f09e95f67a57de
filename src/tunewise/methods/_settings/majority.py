"""The settings of `majority`."""

from __future__ import annotations

from tunewise.methods._contract import MethodSettings


class MajoritySettings(MethodSettings):
    """There is nothing to set."""


SETTINGS = MajoritySettings
