from pathlib import Path

from kaseg.benchmark.peak_memory import peak_memory


def test_memory_grows_with_the_image(tmp_path: Path) -> None:
    small, large = (
        peak_memory("kaseg:backbone=mobilenetv2_035", "eager", size, tmp_path, 1) for size in ((64, 64), (1024, 1024))
    )
    # The first map of the trunk alone, 512x512 of 16 channels and its expansion, has 16 MiB.
    assert 0 < small < large - 16
