"""The whole run: measure, tune, measure again, compare, report; and each stage alone."""
