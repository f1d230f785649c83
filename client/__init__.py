"""How a service asks for runs: in its own process, over the database and the broker."""
