"""A captured network in plain torch on whole maps, without a branch on what it sees."""
