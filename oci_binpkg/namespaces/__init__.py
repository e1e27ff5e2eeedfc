"""Programs in a root file system of their own, by the kernel alone: no daemon, no root."""
