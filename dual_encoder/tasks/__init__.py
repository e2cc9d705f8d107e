"""The tasks that the trainer runs; each supplies the functions of `task.Task`."""
