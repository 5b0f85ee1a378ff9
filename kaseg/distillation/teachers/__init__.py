"""Teachers: any segmentation network as a frozen source of a tapped feature map and logits."""

from kaseg.distillation.teachers.adapter import TeacherAdapter
from kaseg.distillation.teachers.input_sizes import InputSize
from kaseg.distillation.teachers.label_matching import LabelMatch, match_labels
from kaseg.distillation.teachers.outputs import TeacherOutput
from kaseg.distillation.teachers.taps import list_taps

__all__ = ["InputSize", "LabelMatch", "TeacherAdapter", "TeacherOutput", "list_taps", "match_labels"]
