"""A captured network in plain torch on a CPU, touching only blocks that changed."""
