"""One declaration per key; load, override, check."""
