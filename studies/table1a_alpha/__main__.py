import sys

from studies.command import main
from studies.table1a_alpha.run import STUDY

if __name__ == "__main__":
    sys.exit(main(STUDY))
