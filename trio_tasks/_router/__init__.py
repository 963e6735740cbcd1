"""Tasks with names: functions, calls of them, and the queues that they go to."""
