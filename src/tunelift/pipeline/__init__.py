"""The whole run: measure, tune, measure again, compare, report; and each stage alone."""

from tunelift.core import garbage
from tunelift.core.bitsandbytes_alone import import_bitsandbytes

with garbage.not_looked_for():  # 0.6 s of the three that they take to import
    import_bitsandbytes()
    import peft  # noqa: F401  and with it torch and transformers
