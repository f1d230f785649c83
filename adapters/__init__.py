"""How work is started, followed and ended; and the shipper that carries its output. Imports `models`, no other room.

An adapter declares what it can do (`protocol.py`), and is found through the entry-point group `reprieve.adapters`
(`registry.py`): nothing anywhere lists adapter names.
"""
