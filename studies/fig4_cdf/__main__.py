import sys

from studies.command import main
from studies.fig4_cdf.run import STUDY, USUAL, run

if __name__ == "__main__":
    sys.exit(main(STUDY, act=run, usual=USUAL))
