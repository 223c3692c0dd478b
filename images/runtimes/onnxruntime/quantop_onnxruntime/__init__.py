"""onnxruntime-genai and ONNX Runtime as engines of quantop_serving."""
