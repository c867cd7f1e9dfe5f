"""Conformance suites, published for plugin authors: subclass one, name the class to test, run pytest."""
