import importlib.util
import json
from pathlib import Path


def test_the_decoding_benchmark_runs_small(tmp_path: Path) -> None:
    file = Path(__file__).resolve().parents[1] / "benchmarks" / "decoding.py"
    spec = importlib.util.spec_from_file_location("decoding", file)
    benchmark = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(benchmark)  # type: ignore[union-attr]
    output = tmp_path / "out.json"
    small = ["--images", "100", "--size", "32", "--batch-size", "8", "--epochs", "2", "--rounds", "2"]
    assert benchmark.main([*small, "--folder", str(tmp_path / "images"), "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert 20_000 < result["bytes_per_image"] < 300_000
    assert len(result["rounds"]) == 4
    assert len(result["largest_memory_mib"]) == 2
    assert 0.1 < result["ratio"]["median"] < 2
