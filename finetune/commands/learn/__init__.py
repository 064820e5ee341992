"""Exercises: functions with a hole, which are checked inside the bundled model with its real weights."""
