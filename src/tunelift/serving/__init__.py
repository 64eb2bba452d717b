"""Answers to many who ask at once: requests in one batch that they join and leave, each with its adapter."""
