"""
``python -m harken``: the command line.
"""

from harken.cli import main

if __name__ == "__main__":
    main(prog_name="harken")
