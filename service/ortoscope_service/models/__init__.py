"""Models on disk: from a bare ONNX file to an immutable, verified version that can be served.

* `repository`: where versions are kept, and how one is looked up, loaded and added.
* `manifest`: what is known of a version, as TOML beside its ONNX file.
* `preprocessing`: from a picture to the model's input.
* `onboarding`: what `ortoscope-server prepare` does: guesses, verifies and reports.
* `zoo`: models that can be built on the spot.
"""
