"""The flat plan of a captured network, and how a network becomes one."""
