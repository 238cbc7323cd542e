"""The parts that selecting policies share: scorers, pickers, schedules, and the indexes they read."""
