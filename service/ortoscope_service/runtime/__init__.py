"""The only package that imports onnxruntime: threads, cancellation, sessions.

Importing this package switches ONNX Runtime's telemetry off: official builds send model and graph names over the
network by default, read the switch once, at initialization, and are silent under CI, so that no test run notices.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
