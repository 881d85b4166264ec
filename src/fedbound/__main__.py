"""`python -m fedbound` is `fedbound`; `python -m mpi4py -m fedbound` also ends all ranks when one fails."""

import sys

from fedbound.cli import main

if __name__ == "__main__":
    sys.exit(main())
