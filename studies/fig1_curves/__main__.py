import sys

from studies.command import draw
from studies.fig1_curves.documents import draw_documents
from studies.fig1_curves.run import run

ABOUT = "The focal loss against p_t. Writes points.csv and figure.png beside its code, and pictures of docs/losses.md."

if __name__ == "__main__":
    sys.exit(draw("fig1_curves", ABOUT, [run, draw_documents]))
