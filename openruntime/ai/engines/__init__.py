"""Engines: processes that hold a model's weights, and how the gateway starts, asks and ends them."""
