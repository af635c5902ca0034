"""What runs a stream: one folder for each backend."""
