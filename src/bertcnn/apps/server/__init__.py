"""Predictions over HTTP: connections, joined batches, bounded queues, worker processes."""
