"""Sentences for answers that do not exist: every library finds them out differently, and the user hears the same."""

SINGULAR = "the matrix is singular, so it has no inverse; lstsq finds a least-squares solution"
INDEFINITE = "the matrix is not positive definite"
NEGATIVE_POWER = "an integer to a negative power is no integer; give one of the two as float64"
