"""The interfaces of tasks and of other engines, and the data that tasks ship with."""
