"""`tnt-exp` and `python -m tnt_exp`."""

import sys

from tnt_exp.cli import main

if __name__ == "__main__":
    sys.exit(main())
