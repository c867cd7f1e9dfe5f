"""The devices of a node: what there is, what calls cost there, and where a task runs."""
