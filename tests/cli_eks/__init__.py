"""The commands that talk to a cluster, against the emulated one."""
