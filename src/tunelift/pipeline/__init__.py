"""The whole run: measure, tune, measure again, compare, report; and each stage alone."""

from tunelift.core import garbage
from tunelift.core.listing import listed_once

with garbage.not_looked_for(), listed_once():  # 0.6 s of the three that they take to import
    import peft  # noqa: F401  and with it torch and transformers
