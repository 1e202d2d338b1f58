"""Compare systems on data, honestly: see docs/design/0005-study.md."""
