"""Training: settings, learning-rate policies, update rules, the loop, snapshots, logs."""
