"""A command on a processor that has other flags: other_processor.py FLAGS ARGUMENTS..."""

import sys

from tnt_exp.cli import main
from tnt_exp.training import device

flags = sys.argv.pop(1)
device.processor_info = lambda field: flags
sys.exit(main())
