import sys

from studies.command import main
from studies.fig2_speed.run import STUDY, run

if __name__ == "__main__":
    sys.exit(main(STUDY, act=run))
