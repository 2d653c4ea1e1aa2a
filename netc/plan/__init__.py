"""The plan stage: shaped graph + backend -> `Plan`, frozen and printable."""

from netc.plan.build import plan
from netc.plan.types import Direction, Plan, Updates

__all__ = ["Direction", "Plan", "Updates", "plan"]
