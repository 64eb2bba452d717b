"""Many runs: jobs here or on a Ray cluster, sweeps, and leaderboards of methods."""
