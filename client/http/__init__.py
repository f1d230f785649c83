"""Runs over HTTP, for services that have no way to the database: `Client`, and `AsyncClient` for asyncio.

What is asked and how an answer is read is in `calls.py`; what is done when no answer comes, a stream is cut off or a
list has another page is a *plan* (`plans.py`). Neither does I/O: a plan yields `steps.py`, and the two clients only
carry them out, each in its own way.
"""
