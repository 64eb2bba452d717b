"""Where a run's files lie and which version their formats have."""
