"""What is wrong with a cohort before anyone trains on it: one file a kind of finding."""
