"""What comes in: labels, word pieces, data sets. Nothing here imports torch."""
