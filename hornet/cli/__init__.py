"""What is typed: one module a command. Each reads a command line, and calls what does the work."""
