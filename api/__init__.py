"""The HTTP API: runs, their logs and events, live output, and what work outside reports. Imports workers and below."""
