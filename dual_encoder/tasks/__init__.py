"""Tasks: what the trainer runs. Each supplies the functions of train_state.Task."""
