from studies.fig1_curves.documents import draw_documents
from studies.fig1_curves.run import run

if __name__ == "__main__":
    run()
    draw_documents()
