"""Errors with remedies, records that cross rooms, the registry, files written whole, provenance, progress."""
