import sys

from studies.command import main
from studies.fig7_beta_gamma.run import STUDY

if __name__ == "__main__":
    sys.exit(main(STUDY))
