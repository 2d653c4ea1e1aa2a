"""netc: compiler and runner for neural networks written as text, in the style of Caffe."""

from netc._version import __version__

__all__ = ["__version__"]
