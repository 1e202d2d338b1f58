"""Use a trained model. Nothing here imports what trains."""
