from studies.fig5_6_variants.documents import draw_documents
from studies.fig5_6_variants.run import run

if __name__ == "__main__":
    run()
    draw_documents()
