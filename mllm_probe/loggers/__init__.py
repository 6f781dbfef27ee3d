"""Finished runs for TensorBoard, W&B and MLflow, one file each. Reads a run's files, and nothing of the run itself."""
