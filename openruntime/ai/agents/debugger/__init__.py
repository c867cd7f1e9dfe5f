"""Debugger: why a task failed, was slow or gave a wrong result."""
