"""The evaluate stage: tasks that measure an engine on real data."""
