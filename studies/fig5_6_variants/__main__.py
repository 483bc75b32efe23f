import sys

from studies.command import draw
from studies.fig5_6_variants.documents import draw_documents
from studies.fig5_6_variants.run import run

ABOUT = (
    "FL, FL* and their derivatives. Writes points.csv and figure.png beside its code, and pictures of docs/losses.md."
)

if __name__ == "__main__":
    sys.exit(draw("fig5_6_variants", ABOUT, [run, draw_documents]))
