"""``python -m bertcnn`` is the command ``bertcnn``."""

from bertcnn.apps.cli import main

main()
