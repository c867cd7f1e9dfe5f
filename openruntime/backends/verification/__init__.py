"""What decides whether a kernel computes what it claims: data, references, comparisons, and the process that the kernel runs in."""
