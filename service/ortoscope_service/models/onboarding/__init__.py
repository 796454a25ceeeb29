"""From a bare ONNX file to a served model: what is in it, what it expects, and whether that is true.

* `preparation`: the whole way; `wishes`: what the user knows; `report`: what the user is told.
* `inputs`, `labels`: what the inputs hold, and the names of the classes.
* `serving`, `batch_check`: is a batch computed as its items are?
* `preprocessing_choice` (with `conventions`, `photos`, `subject`, `evidence`): how are pixels turned into numbers, and
  how sure is that?
* `activity`, `running`: how alive the units are; running parts of a model.
* `exposing`: taps as outputs of a file.
"""

from ortoscope_service.models.onboarding.exposing import Exposed, expose_file
from ortoscope_service.models.onboarding.labels import read_labels
from ortoscope_service.models.onboarding.preparation import prepare, prepare_zoo
from ortoscope_service.models.onboarding.report import OnboardingReport

__all__ = ["Exposed", "OnboardingReport", "expose_file", "prepare", "prepare_zoo", "read_labels"]
