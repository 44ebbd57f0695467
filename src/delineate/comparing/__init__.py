"""Many runs: suites, equal compute, side by side, and their tables."""
