"""Models: plain torch modules, their registry, their complexity, their ONNX."""
