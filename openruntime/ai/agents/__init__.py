"""Agents: a role, its tools, and what bounds them. They act only through the HTTP API, with a token of their own."""
