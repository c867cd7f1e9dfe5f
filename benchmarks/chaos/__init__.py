"""Faults at random while tasks of every kind come in: what was acknowledged must be there, once, and right."""
