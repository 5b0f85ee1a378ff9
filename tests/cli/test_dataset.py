import numpy as np
import yaml
from toy import write_folder


def test_weights_are_printed_as_a_recipe_takes_them(kaseg, tmp_path) -> None:
    label = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 2, 255]], np.uint8)
    write_folder(tmp_path / "train", [(np.zeros((3, 4, 3), np.uint8), label)])
    (tmp_path / "classes.txt").write_text("road\ncar\nsign\n")
    lines = kaseg.succeed("dataset", "weights", tmp_path, "--power", 0.5).output.splitlines()
    assert lines[1] == "car: 18.18 % of the labelled pixels, weight 1.0"
    assert yaml.safe_load(lines[-1]) == {"class_weights": [0.5, 1.0, 1.41]}
