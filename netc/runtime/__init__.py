"""The runtime stage: a plan and its arrays, run step by step."""

from netc.runtime.executor import Executor, Feed, drawn_param, generator

__all__ = ["Executor", "Feed", "drawn_param", "generator"]
