"""`mien export`: a bundle as one ONNX for other targets, int8 with what it costs, and a parity report."""
