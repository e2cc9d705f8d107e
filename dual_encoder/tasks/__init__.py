"""Tasks: what the trainer runs. Each supplies init, loss, predict and evaluate (train_state.Task)."""
