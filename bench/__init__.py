"""What Reprieve costs, measured beside its rivals: `make bench`. README.md here says how to read it."""
