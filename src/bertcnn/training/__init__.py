"""Make a trained model."""
