import sys

from studies.command import main
from studies.table2_stages.run import STUDY

if __name__ == "__main__":
    sys.exit(main(STUDY))
