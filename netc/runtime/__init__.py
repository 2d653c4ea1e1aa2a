"""The runtime stage: a plan and its arrays, run step by step."""

from netc.runtime.executor import Executor

__all__ = ["Executor"]
