"""supervisord, whose environment has the secrets of all roles, as a process that keeps them to itself."""

from supervisor.supervisord import main

from reprieve.workers.secrecy import conceal

if __name__ == "__main__":
    conceal()
    main()
