"""onnxruntime-genai as an engine of quantop_serving."""
