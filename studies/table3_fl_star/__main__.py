import sys

from studies.command import main
from studies.table3_fl_star.run import STUDY

if __name__ == "__main__":
    sys.exit(main(STUDY))
