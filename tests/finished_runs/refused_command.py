"""A command that should end before anything slow is imported."""

import subprocess
import sys

_PROGRAM = (
    "import sys; from tnt_exp.cli import main; code = main(sys.argv[1:]);"
    "print(sorted({'tensorflow', 'keras', 'mlflow'} & set(sys.modules))); sys.exit(code)"
)


def with_slow_imports_printed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that also prints which of TensorFlow, Keras and MLflow are imported at its end."""
    return subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True)
