"""Power loss: what a disk may hold after it, rebuilt from the file operations of real runs, and recovered."""
