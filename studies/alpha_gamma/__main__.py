import sys

from studies.alpha_gamma.run import STUDY
from studies.command import main

if __name__ == "__main__":
    sys.exit(main(STUDY))
