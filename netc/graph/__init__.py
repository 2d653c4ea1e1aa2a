"""The graph stage: messages + phase, level, stages -> `Graph`, with every shape inferred."""
