"""What is so of a model in memory, asked in one place by all rooms that compute with one."""
