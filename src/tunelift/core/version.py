"""The version of this package; the wheel is given the same."""

__version__ = "0.1.0"
