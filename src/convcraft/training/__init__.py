"""The visible loop and its parts: optimisers, schedules, checkpoints, averages of weights."""
