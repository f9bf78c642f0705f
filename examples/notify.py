"""
A script without a library for its command line, under the contract.
"""

import sys

from harken import contract

with contract.invocation("notify", version="1.0.0", params={"env": sys.argv[1]}) as call:
    call.set(data={"told": ["on-call"]})
