"""`python -m fleet.demo`."""

from fleet.demo.command import main

if __name__ == "__main__":
    main()
