"""Real PostgreSQL and Redis servers out of Python wheels, with nothing to install on the machine.

They are for development, demonstrations and tests on one machine, and listen on 127.0.0.1 only. What is not promised:

* Windows is not supported (process sessions, signals and file locks are POSIX ones).
* A server is stopped by `stop()` or by leaving the `with` block, not when our process is killed: it then runs on,
  and the next `start()` on the same folder stops it and starts anew.
* One object may be used by one thread at a time.
* PostgreSQL refuses to run as root. Where its data cannot be reached by an unprivileged user it goes below /var/tmp,
  which some systems clear of files untouched for 30 days: to keep data as root, give a folder
  that the user `postgres` may enter.
* The Redis wheel is version 6.2: commands of Redis 7 and later are missing.
"""

from reprieve.stores.embedded.errors import EmbeddedServerError
from reprieve.stores.embedded.postgres import EmbeddedPostgres
from reprieve.stores.embedded.redis import EmbeddedRedis

__all__ = ["EmbeddedPostgres", "EmbeddedRedis", "EmbeddedServerError"]
