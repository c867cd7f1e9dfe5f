"""The SDK: an asyncio client over HTTP or in-process, and a synchronous facade over it. Imports contracts only."""
