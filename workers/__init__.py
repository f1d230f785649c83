"""The Celery app and its tasks: thin pipelines over `models`, `adapters` and `stores`.

A module is named for what it does to a run, in the order of its life: `enqueue`, `execute`, `ingest`, `refresh`,
`cancel`, `sweep`, `finish`, `closing`. The app is `app.py`; services import what they need from `reprieve` itself.
"""
