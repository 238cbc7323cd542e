"""The attention stage: which keys and values each query sees, and which are kept."""
