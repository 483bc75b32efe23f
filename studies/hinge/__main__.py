import sys

from studies.command import main
from studies.hinge.run import STUDY

if __name__ == "__main__":
    sys.exit(main(STUDY))
