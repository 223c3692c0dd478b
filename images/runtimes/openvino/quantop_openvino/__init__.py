"""OpenVINO GenAI as an engine of quantop_serving."""
