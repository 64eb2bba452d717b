"""Strangers' files: what those of a model, an adapter or a task say is checked before anything follows it."""
