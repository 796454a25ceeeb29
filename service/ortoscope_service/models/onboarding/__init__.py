"""From a bare ONNX file to a served model: what is in it, what it expects, and whether that is true.

* `preparation`: the whole way; `wishes`: what the user knows; `report`: what the user is told.
* `inputs`, `labels`: what the inputs hold, and the names of the classes.
* `serving`, `batch_check`: is a batch computed as its items are?
* `preprocessing_choice` (with `conventions`, `photos`, `subject`, `evidence`): how are pixels turned into numbers, and
  how sure is that?
* `activity`, `running`: how alive the units are; running parts of a model.
* `backward_graphs`, `backward_contract`, `backward_check`: gradients that are kept beside the model; are they true?
* `exposing`: taps as outputs of a file; `gradient_files`: backward and tangent graphs as files.
"""

from ortoscope_service.models.onboarding.exposing import Exposed, expose_file
from ortoscope_service.models.onboarding.gradient_files import GradientFile, backward_file, tangent_file
from ortoscope_service.models.onboarding.labels import read_labels
from ortoscope_service.models.onboarding.preparation import prepare, prepare_zoo
from ortoscope_service.models.onboarding.report import OnboardingReport

__all__ = [
    "Exposed",
    "GradientFile",
    "OnboardingReport",
    "backward_file",
    "expose_file",
    "prepare",
    "prepare_zoo",
    "read_labels",
    "tangent_file",
]
