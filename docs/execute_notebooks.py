"""Execute docs/notebooks, each in a new folder, and keep its outputs in the file.

python docs/execute_notebooks.py                            all, in place (needs pip install '.[notebooks]')
python docs/execute_notebooks.py --output FOLDER NAME ...   some of them, into another folder (a test runs this)
"""

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).with_name("notebooks")


def main() -> None:
    """Execute the notebooks; an error in a cell is raised."""
    parser = argparse.ArgumentParser(description="Execute docs/notebooks.")
    parser.add_argument("names", nargs="*", help="names without .ipynb (default: all)")
    parser.add_argument("--output", type=Path, default=NOTEBOOKS, help="where they go (default: where they are)")
    options = parser.parse_args()
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not options.names or file.stem in options.names:
            notebook = nbformat.read(file, as_version=4)
            with tempfile.TemporaryDirectory() as folder:
                NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # times
                if cell.cell_type == "code":  # without the messages of TensorFlow's libraries
                    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            nbformat.write(notebook, options.output / file.name)
            print(options.output / file.name)


if __name__ == "__main__":
    main()
