"""Analyst: answers about the system, every figure with the call that gave it."""
