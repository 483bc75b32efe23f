import sys

from studies.command import main
from studies.table1e_depth_scale.run import STUDY

if __name__ == "__main__":
    sys.exit(main(STUDY))
