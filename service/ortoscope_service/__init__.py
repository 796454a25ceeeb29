"""The Ortoscope service: looks inside any ONNX network, over gRPC, on ONNX Runtime."""
